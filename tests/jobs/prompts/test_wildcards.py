"""Test that variants and wildcards are the same for a seed, and that no name is left in a prompt."""

import subprocess
import sys
from collections import Counter

import pytest

from diffusers_ext.jobs.prompts import expand, texts


@pytest.fixture
def folder(file, tmp_path):
    file("cards/animal.txt", "cat\ndog\n# a note\nowl\n")
    file("cards/sub/big.txt", "elephant\n")
    file("cards/scene.txt", "{a|the} __animal__ at night\n")
    file("cards/empty.txt", "\n")
    file("cards/one.txt", "x __two__\n")
    file("cards/two.txt", "y\n{z|__one__}\n")
    file("cards/self.txt", "__self__")
    file("cards/comment.txt", "C# code")
    return tmp_path / "cards"


def written(prompts, **more):
    return [row.prompt for row in expand(texts(prompts), **more)]


def test_choices_are_fixed_by_seed_and_index(folder):
    prompts = ["a {red|blue} __animal__"] * 60
    first = written(prompts, wildcards=folder, seed=3)
    assert first == written(prompts, wildcards=folder, seed=3) != written(prompts, wildcards=folder, seed=4)
    assert first[7:] == written(prompts, wildcards=folder, seed=3)[7:]
    (alone,) = [row.prompt for row in expand(list(texts(prompts))[7:8], folder, 3)]
    assert alone == first[7], "a row does not depend on those before it"
    every = {f"a {colour} {animal}" for colour in ("red", "blue") for animal in ("cat", "dog", "owl")}
    assert set(first) == every


def test_choices_are_the_same_in_another_process(folder):
    prompts = ["{a|b|c|d} __animal__"] * 5
    code = "from diffusers_ext.jobs.prompts import expand, texts\n"
    code += f"for r in expand(texts({prompts}), {str(folder)!r}, 9):\n print(r.prompt)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == written(prompts, wildcards=folder, seed=9)


def test_weights_nesting_and_the_template(folder):
    (row,) = expand(texts(["__scene__, __sub/*__, {2$$ and $$x|x}"]), folder)
    words = row.prompt.split()
    assert (
        words[0] in ("a", "the")
        and words[1] in ("cat", "dog", "owl")
        and row.prompt.endswith("elephant, x and x")
    )
    assert row.meta["template"] == "__scene__, __sub/*__, {2$$ and $$x|x}"
    count = Counter(written(["{9::a|1::b}"] * 100))
    assert 80 < count["a"] < 98, "nine of ten"


def test_prompts_without_choices_stay(folder):
    plain = ["", "a (cat:1.2), 50%", "snake_case | <b> ☂"]
    assert written(plain[:1] + plain[2:], wildcards=folder) == plain[:1] + plain[2:]
    with pytest.raises(ValueError, match=r"prompt 2: .* is no template from character"):
        written(["ok", "50% {off"])


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("__one__", "name each other in a circle, __one__ > __two__ > __one__; take one of them out"),
        ("a {x|__self__}", "in a circle, __self__ > __self__"),
        ("__animl__", "the wildcard __animl__ has no file; nearest is __animal__"),
        ("{a|{b|__big__}}", "the wildcard __big__ has no file; nearest is __sub/big__"),
        ("__empty__", "the wildcard __empty__ has no values"),
        ("__../secret__", "the wildcard __../secret__ has no file"),
        ("${x=__none__} ${x}", "the wildcard __none__ has no file"),
        ("${x=animal} __${x}__", "a wildcard whose name is chosen itself cannot be checked"),
        ("${x=${y}}${y=${x}}${x}", "recursively"),
        ("${z}", "Variable z is not defined"),
        ("C# code", "a # begins a comment in templates"),
        ("__comment__", "a # begins a comment in templates"),
    ],
)
def test_what_would_stay_in_the_prompt_or_never_end_is_refused(folder, capfd, prompt, said):
    with pytest.raises(ValueError) as caught:
        written(["a cat", prompt], wildcards=folder)
    assert str(caught.value).startswith("prompt 2: ") and said in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_folders_are_needed_for_wildcards_alone(tmp_path):
    assert written(["{a|a}"]) == ["a"]
    with pytest.raises(ValueError, match="give the job a folder of wildcards"):
        written(["__animal__"])
    with pytest.raises(ValueError, match="there is no folder"):
        written(["a"], wildcards=tmp_path / "none")


def test_jinja_is_out_of_reach(folder):
    code = "import sys\nfrom diffusers_ext.jobs.prompts import expand, texts\n"
    code += f"print([r.prompt for r in expand(texts(['{{{{ 7*7 }}}} __animal__']), {str(folder)!r})])\n"
    code += "print([m for m in sys.modules if 'jinja' in m or m.startswith('dynamicprompts.generators')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    prompt, loaded = done.stdout.splitlines()
    assert "7*7" in prompt and "49" not in prompt and loaded == "[]"


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamicprompts.sampling_context", None)
    with pytest.raises(ValueError, match=r"run pip install 'diffusers-ext\[wildcards\]'"):
        written(["a"])
