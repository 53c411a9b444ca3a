"""The Ray engine: the same records as the local one, in the same order, on a cluster of two machines."""

import pickle
import sys
from types import SimpleNamespace

import pytest
from support.models import tiny_onnx, write_grains

from rice_lib import infer
from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.predict import ray as ray_engine
from rice_lib.predict.inputs import Unreadable
from rice_lib.predict.pipeline import predict_files

NOT_UTF8 = "latin-\udce9.png"


def test_a_worker_classifies_a_block_under_the_names_given(tmp_path, monkeypatch):
    files = write_grains(tmp_path / "images", 3)
    files[1].rename(tmp_path / NOT_UTF8)
    monkeypatch.chdir(tmp_path)
    sources = ["images/grain (2).png", "none.png", Unreadable("empty", "why"), "images/grain (0).png", NOT_UTF8]
    blocks = ray_engine._blocks(iter(sources))
    monkeypatch.chdir("/")
    worker = ray_engine.Worker(str(tiny_onnx()), batch_size=2, reject=True, threads=1)
    records = [record for block in blocks for record in pickle.loads(worker(block)["records"])]
    assert [record.path for record in records] == [*sources[:2], "empty", *sources[3:]]
    assert [record.error for record in records] == [None, "no such file", "why", None, None]
    with open_predictor(tiny_onnx(), 1) as predictor:
        here = list(predict_files(predictor, [str(files[2]), str(files[0]), str(tmp_path / NOT_UTF8)], 2))
    assert [records[place].prediction for place in (0, 3, 4)] == [record.prediction for record in here]


def test_a_model_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ray_engine.absolute("m.onnx") == str(tmp_path / "m.onnx")
    assert ray_engine.absolute("openvino:m.onnx") == f"openvino:{tmp_path / 'm.onnx'}"
    assert ray_engine.absolute("triton://host:1/m") == "triton://host:1/m"


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RiceError, match=r"pip install 'rice-lib\[bulk\]'"):
        infer.main([str(tmp_path), "--engine", "ray", "--model", str(tiny_onnx())])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_given_up(scheme, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:1")
    closed = SimpleNamespace(is_initialized=lambda: False)
    with (
        pytest.raises(RiceError, match=rf"RAY_ADDRESS={scheme}127\.0\.0\.1:1: no Ray cluster answers"),
        ray_engine._cluster(closed),
    ):
        pass


class Pools:
    """What `_resources` asks of Ray."""

    def __init__(self, **has):
        self.has = has
        self.data = self

    def cluster_resources(self):
        return self.has

    def ActorPoolStrategy(self, size):
        return size


def test_workers_are_as_many_as_there_is_room_and_work_for():
    def workers(cluster, model="m.onnx", threads=1, blocks=100):
        asked = ray_engine._resources(cluster, model, threads, blocks)
        return asked["compute"], asked["num_cpus"], asked["num_gpus"]

    assert workers(Pools(CPU=16.0)) == (16, 1, 0)
    assert workers(Pools(CPU=16.0), threads=4) == (4, 4, 0)
    assert workers(Pools(CPU=16.0), blocks=3) == (3, 1, 0)
    assert workers(Pools(CPU=16.0, GPU=2.0)) == (2, 1, 1)
    assert workers(Pools(CPU=16.0, GPU=2.0), model="triton://h:1/m") == (16, 1, 0)
    with pytest.raises(RiceError, match="has 2 CPUs"):
        workers(Pools(CPU=2.0), threads=4)


@pytest.fixture
def cluster(monkeypatch):
    """Two machines of one CPU each, as Ray sees it."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine leaves the workers too little to start with
    ray = ray_engine._import_ray()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield ray
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_two_machines_predict_what_one_process_predicts(cluster, tmp_path, monkeypatch, capsys):
    images = write_grains(tmp_path / "images", 30)
    (tmp_path / "images" / "broken.png").write_bytes(images[0].read_bytes()[:300])
    (tmp_path / "images" / NOT_UTF8).write_bytes(images[1].read_bytes())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_engine, "BLOCK", 4)
    inputs = ["images", "none.png", "empty", *(f"images/grain ({number}).png" for number in range(5))]
    written = {}
    for engine in ("local", "ray"):
        assert infer.main([*inputs, "--engine", engine, "--model", str(tiny_onnx()), "--format", "jsonl"]) == 1
        written[engine] = capsys.readouterr().out
    assert len(written["local"].splitlines()) == 32 + 2 + 5
    assert written["ray"] == written["local"]
    assert len(nodes_used()) == 2


def nodes_used() -> set[str]:
    from ray._private.state import actors

    return {actor["Address"]["NodeID"] for actor in actors().values() if "Worker" in actor["ActorClassName"]}
