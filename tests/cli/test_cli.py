"""The console command `rice`: its verbs, its help, and what shells complete."""

import re
import subprocess
import sys

import pytest
from support.models import tiny_onnx, write_grains

from rice_lib import cli
from rice_lib.common.errors import RiceError, run_command


def rice(*arguments, **options):
    """The command in a process of its own, as the console script starts it."""
    line = [sys.executable, "-m", "rice_lib", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, **options)


def test_rice_infer_is_the_infer_command(tmp_path):
    (image,) = write_grains(tmp_path, 1)
    arguments = [image, "--model", tiny_onnx(), "--no-reject"]
    told = rice("infer", *arguments)
    module = [sys.executable, "-m", "rice_lib.infer", *map(str, arguments)]
    same = subprocess.run(module, capture_output=True, text=True, timeout=120, check=False)
    assert (
        (told.returncode, told.stdout, told.stderr)
        == (same.returncode, same.stdout, same.stderr)
        == (0, same.stdout, "")
    )


def test_errors_are_one_line_on_stderr():
    told = rice("infer", "x.jpg", "--model", "none.onnx")
    assert (told.returncode, told.stdout, told.stderr) == (2, "", "error: none.onnx: no such model\n")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_rice_alone_lists_its_verbs(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli._run(argv)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb}" in text for verb in (*cli.VERBS, "completion"))
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 80


def test_version_is_the_packages(capsys):
    from importlib.metadata import version

    with pytest.raises(SystemExit):
        cli._run(["--version"])
    assert capsys.readouterr().out == f"rice {version('rice-lib')}\n"


def test_an_unknown_verb_names_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as caught:
        cli._run(["infre"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert all(verb in said for verb in ("infre", *cli.VERBS, "completion"))


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_shows_itself_as_rice(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli._run([verb, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rice {verb} ")


LIGHT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "transformers", "onnx", "pandas", "sklearn", "scipy", "mlflow", "matplotlib", "seaborn", "cv2",
            "pydantic", "yaml", "ruamel", "papermill", "psutil", "tritonclient", "safetensors", "timm",
        }:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from rice_lib import cli
cli.main()
"""
"""The command where nothing is installed but what `pip install .[cpu]` brings."""


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["calibrate", "x.onnx"], "train"),
        (["evaluate", "--model", "x.onnx"], "train"),
        (["export", "onnx", "data/samples", "--output", "x.onnx"], "train"),
        (["stage", "01_eda"], "train"),
        (["set-params", "smoke", "seed=1"], "train"),
        (["serve", "status"], "serve"),
        (["report"], "serve"),
    ],
)
def test_a_verb_without_its_libraries_names_the_extra_in_one_line(words, extra, tmp_path):
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: rice {words[0]} needs \w+, .*pip install 'rice-lib\[{extra}\]'\n", done.stderr)


def test_a_fault_of_this_package_keeps_its_traceback():
    def broken():
        raise ModuleNotFoundError("No module named 'rice_lib.nothing'", name="rice_lib.nothing")

    with pytest.raises(ModuleNotFoundError):
        run_command(broken)


def test_infer_imports_no_more_than_its_module_does():
    code = (
        "import sys; from rice_lib import cli; "
        "sys.exit(', '.join({'argparse', 'numpy', 'shtab', 'difflib', 'rice_lib.infer'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


COMPLETE = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_rice rice "${{COMP_WORDS[COMP_CWORD]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "rice.bash"
    file.write_text(rice("completion", "bash").stdout)
    return file


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rice in", {"infer"}),
        ("rice export t", {"tensorrt"}),
        ("rice infer --re", {"--resume", "--reference-mm"}),
        ("rice infer x.png --engine r", {"ray"}),
        ("rice infer gr", {"grain.png"}),
        ("rice infer x.png --model m", {"model.onnx"}),
        ("rice completion z", {"zsh"}),
    ],
)
def test_bash_completes_verbs_options_choices_and_files(script, tmp_path, words, offered):
    for name in ("grain.png", "model.onnx"):
        (tmp_path / name).touch()
    line = COMPLETE.format(script=script, words=words)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_given_a_script_too(shell, capsys):
    assert cli._run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "reference-mm" in text
    assert "tensorrt" in text


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"]])
def test_completion_wants_one_shell(arguments, capsys):
    with pytest.raises(SystemExit):
        cli._run(["completion", *arguments])
    assert "usage: rice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "line", "why"),
    [
        ("evaluate", ["--model", "m.onnx", "--output", "m.onnx"], "is read as m.onnx"),
        ("evaluate", ["--model", "x", "--against", "m.onnx", "--predictions", "m.onnx"], "is read as m.onnx"),
        ("evaluate", ["--model", "m.onnx", "--output", "grain.jpg"], "named as an image"),
        ("export", ["onnx", "x", "--output", "grain.JPG"], "named as an image"),
        ("export", ["onnx", "x", "--output", "."], "is a folder"),
        ("export", ["tensorrt", "m.onnx", "--output", "m.onnx"], "is read as m.onnx"),
    ],
)
def test_an_output_never_replaces_what_is_read(verb, line, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "grain.jpg"):
        (tmp_path / name).write_text("kept")
    with pytest.raises(RiceError, match=why):
        cli._run([verb, *line])
    assert {file.read_text() for file in tmp_path.iterdir()} == {"kept"}
