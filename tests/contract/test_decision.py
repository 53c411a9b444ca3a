"""The decision: its probabilities, its reasons, its JSON, and that every form of a model carries the same one."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from support.models import grains, tiny_checkpoint, tiny_onnx
from tritonclient.grpc import model_config_pb2 as pb

from rice_lib.backends import triton as client
from rice_lib.backends.open import open_predictor
from rice_lib.backends.plan import BatchProfile, EngineManifest
from rice_lib.backends.vit import load_pixel_classifier
from rice_lib.cli.export import main as export_main
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import (
    APPEARANCE,
    CAUSES,
    KINDS,
    NOT_A_GRAIN,
    UNLIKE,
    Cluster,
    Decision,
    ImageScale,
    RejectionRule,
)
from rice_lib.contract.features import COLUMN, FEATURES
from rice_lib.contract.prediction import feature_table
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export.onnx import export
from rice_lib.models.calibration import write_decision
from rice_lib.serving.repository import write_repository

LIMITS = {"area": (0.05, 0.5), "rim": (0.0, 0.01), "objects": (1.0, 1.0), "solidity": (0.8, 1.0), "fill": (0.9, 1.01)}


def rule(classes: int = 5) -> RejectionRule:
    """Each class one unit sphere, that of class k around k * 10 in every feature of the appearance."""
    spheres = [[Cluster(np.full(len(APPEARANCE), 10.0 * k), np.eye(len(APPEARANCE)))] for k in range(classes)]
    return RejectionRule(LIMITS, spheres, max_distance=30.0)


def row(appearance: float = 0, **structure: float) -> np.ndarray:
    """Features of an image within all limits, but for those named; solidity and fill count to the appearance, too."""
    features = np.zeros(len(FEATURES), np.float32)
    features[[COLUMN[name] for name in APPEARANCE]] = appearance
    within = {"area": 0.2, "rim": 0, "objects": 1, "solidity": 0.95, "fill": 0.98, **structure}
    for name, value in within.items():
        features[COLUMN[name]] = value
    return features


def logits_for(number: int) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[[number]] * 5


DECISION = Decision(1.25, rule(), {"validation_images": 10})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=2, max_size=6), st.floats(0.05, 20))
def test_probabilities_are_the_softmax_over_the_temperature(logits, temperature):
    values = np.array([logits], np.float32)
    found = Decision(temperature).probabilities(values)
    np.testing.assert_allclose(found, softmax(values.astype(float) / temperature, axis=1), atol=1e-12)
    assert found.sum() == pytest.approx(1)
    # equal where two logits differ by less than float64 holds of their exponentials
    assert found[0, values.argmax()] == found.max()


def test_the_scale_of_the_training_images_travels_with_the_decision():
    scaled = replace(DECISION, scale=ImageScale("mm", 0.04))
    assert Decision.from_json(scaled.to_json()).scale == ImageScale("mm", 0.04)
    assert "scale" not in json.loads(DECISION.to_json())
    for damaged in ({"unit": "inch", "per_pixel": 1.0}, {"unit": "mm", "per_pixel": 0}, {"unit": "mm"}):
        with pytest.raises(ValueError, match="damaged"):
            Decision.from_json(json.dumps({"temperature": 1, "scale": damaged}))


def test_every_feature_of_the_appearance_is_of_a_kind_that_a_person_can_act_on():
    assert sorted(name for names in KINDS.values() for name in names) == sorted(APPEARANCE)
    for kind, names in KINDS.items():
        for name in names:
            odd = row()
            odd[COLUMN[name]] += 50 if name not in ("solidity", "fill") else 0
            (reason,) = DECISION.rejections(logits_for(0), odd[None])
            assert reason is None or reason == f"{UNLIKE} ({kind}: {CAUSES[kind]})"


def test_colour_is_no_reason_where_the_outline_alone_is_rejected():
    odd = row()
    odd[COLUMN["width"]], odd[COLUMN["blue less green"]] = 6, 20
    (reason,) = DECISION.rejections(logits_for(0), odd[None])
    assert "its size" in reason
    odd[COLUMN["width"]] = 4  # within 30 by itself
    assert "its colour" in DECISION.rejections(logits_for(0), odd[None])[0]


def test_without_a_rule_nothing_is_rejected():
    assert Decision(2).rejections(np.zeros((3, 5)), np.full((3, len(FEATURES)), np.nan)) == [None] * 3


def test_a_grain_within_all_limits_is_not_rejected():
    assert DECISION.rejections(logits_for(0), row()[None]) == [None]


@pytest.mark.parametrize(
    ("structure", "why"),
    [
        ({"area": 0.01}, "nothing as large as a grain"),
        ({"area": 0.7}, "larger than a grain"),
        ({"rim": 0.2}, "it touches the border"),
        ({"rim": 0.9}, "the background is bright"),
        ({"objects": 3}, "several objects"),
        ({"objects": 0}, "there are holes in it"),
        ({"solidity": 0.5}, "several objects, or an outline"),
        ({"fill": 0.5}, "several objects, or an outline"),
        ({"area": np.nan}, ""),
        ({"rim": 0.9, "objects": -40, "solidity": 0.2}, "the background is bright"),
    ],
)
def test_structure_outside_its_limits_is_not_a_single_grain(structure, why):
    (reason,) = DECISION.rejections(logits_for(0), row(**structure)[None])
    assert reason.startswith(f"{NOT_A_GRAIN} (")
    assert why in reason


def test_the_appearance_is_compared_with_that_of_the_predicted_class():
    features = row(appearance=10)[None]
    assert DECISION.rejection.distances(logits_for(1), features)[0] < 30 * 10  # solidity and fill lie near 1, not 10
    far = replace(DECISION.rejection, max_distance=200.0)
    assert Decision(1, far).rejections(logits_for(1), features) == [None]
    (reason,) = Decision(1, far).rejections(logits_for(0), features)
    assert reason.startswith(f"{UNLIKE} (its ")


def test_the_reason_names_the_most_unusual_feature():
    odd = row()
    odd[COLUMN["hue spread"]] = 7
    assert DECISION.rejections(logits_for(0), odd[None]) == [f"{UNLIKE} (its colour: {CAUSES['its colour']})"]
    odd[COLUMN["luma"]] = np.nan
    assert DECISION.rejections(logits_for(0), odd[None])[0].startswith(UNLIKE)


def test_the_nearest_cluster_of_a_class_counts():
    two = copy.copy(DECISION.rejection)
    clusters = [[*of, Cluster(of[0].mean + 5, of[0].root)] for of in two.clusters]
    both = replace(two, clusters=clusters)
    apart = row(appearance=5, solidity=1, fill=1)[None]
    assert Decision(1, two).rejections(logits_for(0), apart) != [None]
    assert both.distances(logits_for(0), apart)[0] == pytest.approx(2 * 4**2, rel=1e-4)


def test_each_image_of_a_batch_is_judged_by_itself():
    features = np.stack([row(), row(objects=2), row(appearance=10), row()])
    logits = np.concatenate([logits_for(0), logits_for(0), logits_for(0), logits_for(3)])
    alone = [DECISION.rejections(logits[i : i + 1], features[i : i + 1])[0] for i in range(4)]
    assert DECISION.rejections(logits, features) == alone
    assert [reason is None for reason in alone] == [True, False, False, False]
    assert DECISION.rejections(np.empty((0, 5)), np.empty((0, len(FEATURES)))) == []


def random_decision() -> Decision:
    rng = np.random.default_rng(4)
    clusters = [
        [
            Cluster(rng.normal(50, 30, len(APPEARANCE)), np.tril(rng.normal(0, 5, (len(APPEARANCE),) * 2)))
            for _ in range(2)
        ]
        for _ in VARIETIES
    ]
    return Decision(0.8123456789, RejectionRule(LIMITS, clusters, 41.7), {"note": "žito"})


def test_json_keeps_the_decision_in_a_few_kilobytes():
    before = random_decision()
    text = before.to_json()
    after = Decision.from_json(text, classes=5)
    assert "\n" not in text
    assert len(text) < 10_000
    assert after.to_json() == text, "read and written again it is the same, so every form can carry it on"
    assert after.temperature == pytest.approx(before.temperature, rel=1e-5)
    assert dict(after.about) == {"note": "žito"}
    features = np.random.default_rng(1).normal(50, 30, (50, len(FEATURES))).astype(np.float32)
    logits = np.eye(5)[np.arange(50) % 5]
    np.testing.assert_allclose(
        after.rejection.distances(logits, features), before.rejection.distances(logits, features), rtol=0.01
    )


def test_a_decision_without_a_rule_travels_too():
    assert Decision.from_json(Decision(1.5).to_json()) == Decision(1.5)


def broken(change) -> str:
    values = json.loads(random_decision().to_json())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"temperature": 0}',
        '{"temperature": NaN}',
        '{"temperature": "warm"}',
        broken(lambda v: v["rejection"].pop("max_distance")),
        broken(lambda v: v["rejection"].update(max_distance=-1)),
        broken(lambda v: v["rejection"].update(clusters=[])),
        broken(lambda v: v["rejection"]["clusters"][1].clear()),
        broken(lambda v: v["rejection"]["clusters"][1][0]["root"].pop()),
        broken(lambda v: v["rejection"]["clusters"][1][0]["mean"].pop()),
        broken(lambda v: v["rejection"]["clusters"][1][0].update(mean=["x"] * len(APPEARANCE))),
        broken(lambda v: v["rejection"]["limits"].pop("rim")),
        broken(lambda v: v["rejection"]["limits"].update(rim=3)),
        broken(lambda v: v["rejection"]["features"].append("weight")),
        broken(lambda v: v["rejection"]["appearance"].reverse()),
        broken(lambda v: v.update(rejection="no")),
        broken(lambda v: v.update(about=3)),
        broken(lambda v: v.update(refusal=v.pop("rejection"))),  # of a model made at an early state of this project
    ],
)
def test_a_damaged_decision_is_one_line_that_says_what_to_do(text):
    with pytest.raises(ValueError, match=r"^the decision is damaged; measure it again \(rice calibrate") as caught:
        Decision.from_json(text)
    assert "\n" not in str(caught.value)


def test_a_decision_for_other_classes_is_an_error():
    with pytest.raises(ValueError, match="a decision for 5 classes, the model has 3"):
        Decision.from_json(random_decision().to_json(), classes=3)


# carried by every form


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """A checkpoint with a decision, exported in both precisions."""
    folder = tmp_path_factory.mktemp("carried")
    shutil.copytree(tiny_checkpoint(), folder / "checkpoint")
    write_decision(folder / "checkpoint", DECISION)
    export_main(["onnx", str(folder / "checkpoint"), "--output", str(folder / "float32.onnx")])
    classifier = load_pixel_classifier(folder / "checkpoint")
    export(classifier, folder / "float16.onnx", precision="float16", labels=VARIETIES, decision=DECISION)
    return folder


def test_checkpoint_and_exports_carry_it_and_reject_alike(carried):
    pixels = np.concatenate([grains(3), np.zeros((1, 224, 224, 3), np.uint8)])
    reasons = []
    for form in ("checkpoint", "float32.onnx", "float16.onnx"):
        with open_predictor(carried / form) as model:
            assert model.decision.to_json() == DECISION.to_json()
            reasons.append(model.decision.rejections(model.logits(pixels), feature_table(pixels)))
    assert reasons[0] == reasons[1] == reasons[2]
    assert reasons[0][-1].startswith(NOT_A_GRAIN)


def test_models_of_before_stay_usable():
    for model in (tiny_checkpoint(), tiny_onnx()):
        with open_predictor(model) as predictor:
            assert predictor.decision == Decision()
            assert not predictor.decision.rejects


def test_a_damaged_decision_in_a_model_is_one_line(carried, tmp_path):
    proto = onnx.load(carried / "float32.onnx")
    onnx.helper.set_model_props(proto, {"labels": json.dumps(VARIETIES), "decision": '{"temperature":'})
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(RiceError, match=r"x\.onnx: the ONNX metadata: the decision is damaged"):
        open_predictor(tmp_path / "x.onnx")
    shutil.copytree(carried / "checkpoint", tmp_path / "checkpoint")
    for content in (b'{"temperature":', b"\xff\xfe\x00"):
        (tmp_path / "checkpoint/decision.json").write_bytes(content)
        with pytest.raises(RiceError, match=r"decision\.json: "):
            open_predictor(tmp_path / "checkpoint")


def test_a_plans_manifest_carries_it(carried, tmp_path):
    plan = tmp_path / "x.plan"
    plan.touch()
    text = DECISION.to_json()
    made = EngineManifest(
        "tensorrt", "10.0", None, "x.onnx", "0", "0", "float32", BatchProfile(), VARIETIES, decision=text
    )
    made.write(plan)
    assert EngineManifest.read(plan).decision == text
    file = tmp_path / "x.plan.json"
    values = json.loads(file.read_text())
    del values["decision"]  # a plan of before
    file.write_text(json.dumps(values))
    assert EngineManifest.read(plan).decision is None


def test_a_built_plan_has_its_onnx_files(carried, tmp_path):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    from rice_lib.export.tensorrt import build_engine

    made = build_engine(carried / "float32.onnx", tmp_path / "x.plan", flavour="tensorrt_rtx")
    assert made.decision == DECISION.to_json()


def test_a_servers_configuration_carries_it(carried, tmp_path):
    repository = write_repository(carried / "float32.onnx", tmp_path / "repository", "rice", 4)
    config = text_format.Parse((repository.folder / "rice" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.parameters["decision"].string_value == DECISION.to_json()
    (postprocess,) = repository.folder.glob("*/1/decision.json")
    assert json.loads(postprocess.read_text())["decision"] == json.loads(DECISION.to_json())


@pytest.mark.parametrize(
    ("text", "found"),
    [(DECISION.to_json(), DECISION), (None, Decision()), ("{", RiceError)],
    ids=["it", "none", "bad"],
)
def test_a_client_reads_it_from_the_servers_configuration(monkeypatch, text, found):
    parameters = {"labels": {"string_value": json.dumps(VARIETIES)}}
    if text is not None:
        parameters["decision"] = {"string_value": text}
    config = {
        "max_batch_size": 8,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": [224, 224, 3]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [5]}],
        "parameters": parameters,
    }
    monkeypatch.setattr(client.Connection, "config", lambda _: config)
    if found is RiceError:
        with pytest.raises(RiceError, match="the configuration of http://here:1/rice: the decision is damaged"):
            client.TritonPredictor("here:1", "rice")
    else:
        assert client.TritonPredictor("here:1", "rice").decision.to_json() == found.to_json()
