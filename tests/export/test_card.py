"""The model card: front matter that the Hub takes, what it says, and what it says of a pretrained start."""

import pytest
from huggingface_hub import ModelCard

from rice_lib.export.card import model_card, summary

LABELS = ("Arborio", "Jasmine")


def metric(value, n=1000):
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": n}


RESULTS = {
    "random split": {"accuracy": metric(0.98), "macro_f1": metric(0.97), "rejected": metric(0.02)},
    "session split": {"accuracy": metric(0.95, 500), "rejected": {"value": None, "low": None, "high": None, "n": 0}},
}


def provenance(model="scratch", aligned_frame=None):
    augmentation = {"scale": 0.4, "flip": True, "noise": 0.0}
    settings = {"model": model, "epochs": 3.0, "batch_size": 8, "learning_rate": 0.001, "scheduler": "cosine"}
    about = {
        "profile": "tiny",
        "scheme": "random",
        "source": "zip",
        "commit": "abc123",
        "created": "today",
        "data": "f00d",
    }
    return {**about, "finetune": {**settings, "augmentation": augmentation, "aligned_frame": aligned_frame}}


def test_the_front_matter_is_read_back_and_has_every_test(tmp_path):
    model_card(LABELS, provenance(), RESULTS, "Two images, CC0").save(tmp_path / "README.md")
    about = ModelCard.load(tmp_path / "README.md").data
    assert (about.license, about.pipeline_tag, about.base_model) == ("apache-2.0", "image-classification", None)
    assert about.model_name == "rice-vit-tiny"
    assert [(result.dataset_name, result.metric_value) for result in about.eval_results] == [
        ("random split", 0.98),
        ("session split", 0.95),
    ]


def test_it_says_data_metrics_with_intervals_and_limits():
    text = model_card(LABELS, provenance(), RESULTS, "Two images, CC0").text
    assert "Two images, CC0." in text
    assert "| random split | 0.9800 [0.9700, 0.9900], 1,000 images |" in text
    assert "| session split | 0.9500 [0.9400, 0.9600], 500 images | - | - |" in text
    assert "scale 0.4, flip True." in text
    for limit in ("Varieties", "Scale", "Background", "Session"):
        assert f"- **{limit}.**" in text
    assert "no weight of anybody else's" in text
    assert "From random weights" in text


@pytest.mark.parametrize(("frame", "said"), [(None, "uses the size"), ([48, 128], "divided out")])
def test_the_limit_of_scale_is_that_of_the_model(frame, said):
    text = model_card(LABELS, provenance(aligned_frame=frame), RESULTS, "x").text
    assert said in text


def test_a_pretrained_start_is_named_and_its_licence_is_not_ours():
    card = model_card(LABELS, provenance("google/vit"), RESULTS, "x")
    assert (card.data.base_model, card.data.license) == ("google/vit", "other")
    assert "That of `google/vit`" in card.text


def test_a_start_from_the_shipped_model_is_no_start_from_random_weights():
    text = model_card(LABELS, provenance("shipped"), RESULTS, "x").text
    assert "From the weights of the model that ships" in text
    assert "random weights" not in text


def test_the_summary_has_classes_and_accuracies():
    assert "Arborio, Jasmine" in summary(LABELS, RESULTS)
    assert "session split: accuracy 0.9500 [0.9400, 0.9600], 500 images" in summary(LABELS, RESULTS)
