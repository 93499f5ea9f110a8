"""Every kind of mistake has its message; every combination of YAML files is accepted."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from builders import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from nat import config as configuration
from nat.composition import compose, config_directory
from nat.config import Component, build, load_yaml, option, parse, save_yaml, to_plain, trust
from nat.errors import ConfigError
from nat.training.run import RunConfig

HERE = Path(__file__).parent
EXPERIMENTS = sorted(path.stem for path in (config_directory() / "experiment").glob("*.yaml"))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    width: int = option(3, "its width", minimum=1)
    colour: Colour = option(Colour.RED)


class Part:
    @dataclass(frozen=True)
    class Config:
        size: int = option(help="how large")

    def __init__(self, config: Config, *, times: int) -> None:
        self.total = config.size * times


class NoPart:
    pass


class Elsewhere(Part):
    """As it is when a trusted module imports it from another."""


Elsewhere.__module__ = "elsewhere"


@dataclass(frozen=True)
class Sample:
    name: str = option(help="what it is called")
    count: int = option(1, minimum=1, maximum=9)
    share: float = option(0.5, above=0, below=1)
    flag: bool = option(False)
    maybe: int | None = option(None, minimum=2)
    either: str | list[str] | None = option(None)
    names: list[str] = option([])
    free: dict[str, Any] = option({})
    inner: Inner = field(default_factory=Inner)
    part: Component | None = option(None)

    def __post_init__(self) -> None:
        if self.count == 7 and self.flag:
            raise ConfigError("count=7: not with flag")


PART = f"{__name__}.Part"


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The components of this file are those of a package that the user trusts."""
    monkeypatch.setattr(configuration, "TRUSTED", {"nat", __name__})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name: a value is needed (what it is called)"),
        ({"nmae": "x", "name": "x"}, "nmae: no such option, did you mean 'name'?"),
        (
            {"name": "x", "zzz": 1},
            "zzz: no such option, known: count, either, flag, free, inner, maybe, name, names, part, share",
        ),
        ({"name": "x", "count": "a\nb"}, "count=a b: a whole number is needed"),
        ({"name": "x", "count": "three"}, "count=three: a whole number is needed"),
        ({"name": "x", "count": 1.5}, "count=1.5: a whole number is needed"),
        ({"name": "x", "count": True}, "count=True: a whole number is needed"),
        ({"name": "x", "count": None}, "count=null: a whole number is needed"),
        ({"name": "x", "count": 0}, "count=0: must be at least 1 and at most 9"),
        ({"name": "x", "count": 10}, "count=10: must be at least 1 and at most 9"),
        ({"name": "x", "share": 0}, "share=0.0: must be more than 0 and less than 1"),
        ({"name": "x", "share": 1.0}, "share=1.0: must be more than 0 and less than 1"),
        ({"name": "x", "share": "half"}, "share=half: a number is needed"),
        ({"name": "x", "flag": "yes"}, "flag=yes: true or false is needed"),
        ({"name": "x", "flag": 1}, "flag=1: true or false is needed"),
        ({"name": ["x"]}, "name=['x']: text is needed"),
        ({"name": " "}, "name=: a value is needed"),
        ({"name": "x", "maybe": 1}, "maybe=1: must be at least 2"),
        ({"name": "x", "maybe": 10**23}, f"maybe={10**23}: must be at most {2**63 - 1}"),
        ({"name": "x", "maybe": 1e30}, f"maybe=1e+30: must be at most {2**63 - 1}"),
        ({"name": "x", "share": float("nan")}, "share=nan: must be finite"),
        ({"name": "x", "share": float("inf")}, "share=inf: must be finite"),
        ({"name": "x", "names": "one"}, "names=one: a list is needed, for example [one]"),
        ({"name": "x", "names": ["a", None]}, "names[1]=null: text is needed"),
        ({"name": "x", "free": 3}, "free=3: a mapping is needed"),
        ({"name": "x", "inner": 3}, "inner=3: a mapping of options is needed"),
        ({"name": "x", "inner": {"width": 0}}, "inner.width=0: must be at least 1"),
        ({"name": "x", "inner": {"widht": 1}}, "inner.widht: no such option, did you mean 'width'?"),
        ({"name": "x", "inner": {"colour": "green"}}, "inner.colour=green: allowed are red, blue"),
        ({"name": "x", "count": 7, "flag": True}, "count=7: not with flag"),
        (
            {"name": "x", "part": {"size": 3}},
            "part={'size': 3}: a component is needed, a mapping with _target_ and its options",
        ),
        ({"name": "x", "part": {"_target_": PART}}, "part.size: a value is needed (how large)"),
        (
            {"name": "x", "part": {"_target_": f"{__name__}.NoPart"}},
            f"part._target_={__name__}.NoPart: this is not a component: it has no nested dataclass Config",
        ),
        (
            {"name": "x", "part": {"_target_": "nat.config.Path"}},
            "part._target_=nat.config.Path: this is not a component: it has no nested dataclass Config",
        ),
        (
            {"name": "x", "part": {"_target_": f"{__name__}.Elsewhere"}},
            f"part._target_={__name__}.Elsewhere: this is a class of elsewhere, not a component",
        ),
    ],
)
def test_each_mistake_has_its_message(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Sample, given)
    assert str(error.value) == message


@pytest.mark.parametrize("target", ["nat.nosuch.Thing", "nat.models.ctc.CTX", "nat..Thing", "nat./tmp/x.Thing"])
def test_an_unknown_class_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"part\._target_={target}: there is no such class"):
        parse(Sample, {"name": "x", "part": {"_target_": target}})


@pytest.mark.parametrize("target", ["evil.Thing", "nonsense", "os.system", "natural.Thing", "nat", ""])
def test_no_module_is_imported_that_the_user_does_not_trust(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("evil", "natural"):
        (tmp_path / f"{name}.py").write_text(
            "import dataclasses\nclass Thing:\n    @dataclasses.dataclass\n    class Config:\n        pass\n"
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="are built only where you trust that package: --trust "):
        parse(Component, {"_target_": target})
    assert "evil" not in sys.modules and "natural" not in sys.modules
    trust("evil")
    assert parse(Component, {"_target_": "evil.Thing"}).target.__name__ == "Thing"


@pytest.mark.parametrize("package", ["nosuchpackage", "", "./evil", "a b", "nosuch.part"])
def test_a_package_that_is_not_there_cannot_be_trusted(package: str) -> None:
    with pytest.raises(ConfigError, match=f"trust={package}: there is no such package"):
        trust(package)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("model._target_=nat.nn.transformer.Encoder", "TranslationModel"),
        ("encoder._target_=nat.nn.attention.full.FullAttention", "Encoder"),
        ("attention._target_=nat.training.optimizer.Adam", "Attention"),
        ("optimizer._target_=nat.training.schedule.LearningRate", "Optimizer"),
        ("schedule._target_=nat.training.optimizer.Adam", "LearningRate"),
        ("++stage._target_=nat.training.optimizer.Adam", "Stage"),
    ],
)
def test_a_component_of_another_kind_is_refused(override: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(RunConfig, compose("train", ["run_dir=x", override]))
    assert f"{override.lstrip('+')}: a kind of {wanted} is needed" in str(error.value).splitlines()


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse(Sample, {"count": 0, "flag": "no", "inner": {"widht": 1, "colour": "green"}, "zz": 1}, "top")
    keys = [line.split(":")[0] for line in str(error.value).splitlines()]
    assert keys == ["top.count=0", "top.flag=no", "top.inner.widht", "top.inner.colour=green", "top.zz", "top.name"]


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(ConfigError) as error:
        parse(Sample, {"name": "x", "count": "9" * 200})
    assert len(str(error.value)) < 100


def test_what_is_right_is_converted() -> None:
    given = {
        "name": 3,
        "count": 2.0,
        "share": 0.25,
        "maybe": None,
        "either": ["a", "b"],
        "names": ["c"],
        "inner": {"colour": "blue"},
        "part": {"_target_": PART, "size": 4},
    }
    sample = parse(Sample, given)
    assert (sample.name, sample.count, sample.either, sample.names) == ("3", 2, ["a", "b"], ["c"])
    assert isinstance(sample.count, int)
    assert sample.inner == Inner(3, Colour.BLUE)
    assert parse(Sample, {"name": "x", "either": "a"}).either == "a"
    assert sample.part is not None
    assert sample.part.build(times=3).total == 12
    assert build({"_target_": PART, "size": 5}, times=2).total == 10
    assert parse(Sample, {"name": "x", "inner": None}).inner == Inner()


def test_to_plain_is_the_inverse_of_parse(tmp_path: Path) -> None:
    given = {"name": "x", "free": {"a": [1, {"b": None}]}, "part": {"_target_": PART, "size": 4}}
    sample = parse(Sample, given)
    assert parse(Sample, to_plain(sample)) == sample
    save_yaml(sample, tmp_path / "sample.yaml")
    assert parse(Sample, load_yaml(tmp_path / "sample.yaml")) == sample


def test_defaults_are_not_shared_between_configurations() -> None:
    first, second = parse(Sample, {"name": "a"}), parse(Sample, {"name": "b"})
    first.free["x"] = 1
    assert second.free == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": cannot be read (No such file or directory)"),
        (b"- a\n- b\n", ": a mapping of options is needed"),
        (b"a: 1\nb: [", ", line 2: cannot be read ("),
        (b"a: 1\n\tb: 2\n", ", line 2: cannot be read ("),
        (b"\x00", ": cannot be read ("),
        (b"a: \xff", ": cannot be read ('utf-8' codec "),
        (b"a: " + b"[" * 1500, ": cannot be read (nested too deeply)"),
        (b"a: " + b"9" * 5000, ": cannot be read ("),
        (b"a: 1\na: 2\n", ", line 2: cannot be read (found duplicate key a)"),
        (b"a: &x [1, 1]\nb: [*x, *x]\n", ", line 2: cannot be read (aliases are not read)"),
        (b"a: !!python/object/apply:os.system [true]\n", ", line 1: cannot be read ("),
    ],
)
def test_a_bad_yaml_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${oc.env:NO_SUCH_VARIABLE}", "${name}", "${", "${a.${b}}"])
def test_nothing_in_a_saved_file_is_resolved(tmp_path: Path, value: str) -> None:
    save_yaml({"name": value, "nested": [{"key": value}]}, tmp_path / "saved.yaml")
    assert load_yaml(tmp_path / "saved.yaml") == {"name": value, "nested": [{"key": value}]}


# --- Hydra ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_experiment_takes_every_model(experiment: str, model: str) -> None:
    plain = compose("train", [f"experiment={experiment}", f"model={model}", "run_dir=x"])
    config = parse(RunConfig, plain)
    assert to_plain(config) == plain | {"run_dir": "x"}


@pytest.mark.parametrize("size", ["small", "base"])
def test_every_model_has_a_recipe_and_every_recipe_is_accepted(size: str) -> None:
    recipes = sorted(path.stem for path in (config_directory() / "experiment" / size).glob("*.yaml"))
    found = set()
    for recipe in recipes:
        plain = compose(
            "train", [f"experiment={size}/{recipe}", "run_dir=x", "trainer.max_updates=77", "data.train=x.jsonl"]
        )
        config = parse(RunConfig, plain)
        found.add(config.model.target.__module__.rpartition(".")[2])
        glancing = plain["model"].get("glancing", {"start": 0, "updates": 77})
        assert (glancing["start"] > 0) == ("glancing" in recipe or recipe in ("ctc_fast", "dag", "dag_crf"))
        assert glancing["start"] == 0 or glancing["updates"] == 77, "the ratio falls over the whole run"
        assert plain["model"].get("deep_supervision", {}).get("enabled", False) == ("deep" in recipe)
        assert "oaxe" not in recipe or plain["model"]["annealing"]["updates"] == 77
    assert found == set(MODELS)


FIELD = {  # target tokens an update, dropout, label smoothing, beta2, clip (the reference recipes for WMT14 En-De)
    "autoregressive": (65536, 0.1, 0.1, 0.98, 1.0),
    "vanilla": (65536, 0.1, 0.1, 0.98, 1.0),
    "vanilla_glancing": (65536, 0.1, 0.1, 0.999, 5.0),
    "vanilla_deep": (131072, 0.1, 0.1, 0.98, 2.0),
    "vanilla_axe": (131072, 0.1, 0.1, 0.98, 1.0),
    "vanilla_oaxe": (131072, 0.1, 0.1, 0.98, 1.0),
    "crf": (65536, 0.3, 0.1, 0.98, 1.0),
    "fertility": (65536, 0.1, 0.0, 0.98, 1.0),
    "refinement": (65536, 0.3, 0.1, 0.98, 1.0),
    "mask_predict": (131072, 0.2, 0.1, 0.98, 1.0),
    "diffusion": (131072, 0.2, 0.1, 0.98, 1.0),
    "ctc": (65536, 0.1, 0.01, 0.98, 2.0),
    "ctc_glancing": (65536, 0.1, 0.0, 0.999, 2.0),
    "ctc_deep": (131072, 0.1, 0.0, 0.98, 2.0),
    "ctc_fast": (65536, 0.1, 0.0, 0.999, 2.0),
    "dag": (65536, 0.1, 0.0, 0.999, 0.1),
    "dag_crf": (65536, 0.1, 0.0, 0.999, 0.1),
    "imputer": (65536, 0.1, 0.0, 0.98, 1.0),
    "insertion": (65536, 0.3, 0.1, 0.98, 1.0),
    "levenshtein": (65536, 0.3, 0.1, 0.98, 1.0),
    "edit_flow": (65536, 0.3, 0.1, 0.98, 1.0),
    "kermit": (65536, 0.3, 0.1, 0.98, 1.0),
}


@pytest.mark.parametrize(
    "recipe",
    sorted(
        path.stem
        for path in (config_directory() / "experiment/base").glob("*.yaml")
        if not path.stem.startswith("pointer")  # which is for points, not for WMT14
    ),
)
def test_base_recipes_have_the_figures_of_the_field(recipe: str) -> None:
    plain = compose("train", [f"experiment=base/{recipe}", "run_dir=x"])
    model, trainer, optimizer = plain["model"], plain["trainer"], plain["optimizer"]
    found = (trainer["tokens_per_update"], model["size"]["dropout"], model["label_smoothing"])
    assert (*found, optimizer["beta2"], trainer["clip_norm"]) == FIELD[recipe]
    layers = [plain["encoder"]["num_layers"], *([model["decoder"]["num_layers"]] if "decoder" in model else [])]
    split = [10, 2] if recipe == "ctc_fast" else [6, 6]
    assert (model["size"]["dim"], layers) == (512, split if "decoder" in model else [12])
    assert trainer["max_updates"] == 300_000
    assert optimizer["beta1"] == 0.9


def choices(group: str) -> list[tuple[str, str]]:
    return [(group, path.stem) for path in sorted((config_directory() / group).glob("*.yaml"))]


@pytest.mark.parametrize(
    ("group", "name"), [c for g in ("attention", "encoder", "data", "optimizer", "schedule") for c in choices(g)]
)
def test_every_choice_of_a_group_is_accepted(group: str, name: str) -> None:
    parse(RunConfig, compose("train", ["run_dir=x", f"{group}={name}"]))


def test_train_yaml_lists_every_option_with_its_default() -> None:
    plain = compose("train", ["run_dir=x"])
    assert plain == to_plain(parse(RunConfig, plain))
    listed = load_yaml(config_directory() / "train.yaml")
    bare = parse(
        RunConfig, {k: v for k, v in plain.items() if k not in ("trainer", "validation", "seed", "init_from", "stage")}
    )
    for section in ("trainer", "validation"):
        assert listed[section] == to_plain(getattr(bare, section))
    assert (listed["seed"], listed["init_from"], listed["stage"]) == (bare.seed, bare.init_from, bare.stage)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["model=ctx"], "model=ctx: there is no such choice; did you mean 'ctc'?; choices: "),
        (["experiment=zzz"], "experiment=zzz: there is no such choice; known: "),
        (["trainer.max_updates"], "'trainer.max_updates' is not an override: write key=value"),
        (["trainer.max_updates=[1,]"], ""),
        (["=3"], ""),
        (["run_dir="], "run_dir=: a value is needed"),
        (["experiment= "], "experiment=: a value is needed"),
        (["seed=${oc.env:NO_SUCH_VARIABLE}"], "NO_SUCH_VARIABLE"),
        (["seed=${"], ""),
        (["claims=" + "[" * 5000 + "]" * 5000], "nested too deeply"),
    ],
)
def test_bad_overrides_are_one_line(overrides: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose("train", ["run_dir=x", *overrides])
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


NAMES = [
    "a b", "Überß-日本", "lr=0.1,x=2", "x#1@2%r", "it's", "it's \"q\"", "'a' and 'b'", "{a,b}.tsv", "a[1].tsv", "(x",
    "x)", "a;b&c", "a?b=1&c=2", "back\\slash", "end\\", "tab\tx", "line\nbreak", "a: b", "$x", "!", "-x", "[x", "x]",
    "{x", "^`<>|", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_hold_any_character(name: str, tmp_path: Path) -> None:
    data = tmp_path / name / "data"
    data.mkdir(parents=True)
    (data / "mine.yaml").write_text("limit: 77\n")
    special = set(name) & set(",[]{}'")
    entry = "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" if special else name  # it would be several
    words = ["data=mine", f"run_dir={name}", f"data.train=[{entry}, b]", f"data.more={{x: {entry}, y: {tmp_path}}}"]
    plain = compose("lm", words, extra_directory=tmp_path / name)
    assert plain["run_dir"] == name
    assert plain["data"] == {"limit": 77, "train": [name, "b"], "more": {"x": name, "y": str(tmp_path)}}


def test_lists_and_mappings_keep_their_values() -> None:
    words = ["claims=[1,true,null,a b,'c,d',[e=f,{g: ä,h: [1.5]}],{}]", 'b="x"', "c=1", "d=[]", "e={}", "f='1'"]
    plain = compose("report", words)
    assert plain["claims"] == [1, True, None, "a b", "c,d", ["e=f", {"g": "ä", "h": [1.5]}], {}]
    assert [plain[key] for key in "bcdef"] == ["x", 1, [], {}, "1"]


def test_a_tilde_is_the_home_folder_wherever_a_path_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ninit_from: ~/old\n")
    words = ["run_dir=~/run", "data.train=[~/a.en,~/ä.de]", "data.valid=a~/b", "data={test: ~}"]
    plain = compose("train", words)
    assert (plain["run_dir"], plain["data"]["train"]) == ("/home/me/run", ["/home/me/a.en", "/home/me/ä.de"])
    assert (plain["data"]["valid"], plain["data"]["test"]) == ("a~/b", "/home/me")
    assert compose("train", ["run_dir=x", "experiment=mine"], extra_directory=tmp_path)["init_from"] == "/home/me/old"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [\n", "mine.yaml, line 2: cannot be read ("),
        (b"# \xff\n", "mine.yaml: cannot be read ('utf-8' codec"),
        (b"a: " + b"[" * 1500, "mine.yaml: cannot be read (nested too deeply)"),
        (b"a: 1\na: 2\n", "mine.yaml, line 2: cannot be read (found duplicate key a)"),
        (b"a: ${oc.env:NO_SUCH_VARIABLE}\n", "NO_SUCH_VARIABLE"),
    ],
)
def test_a_mistake_in_ones_own_yaml_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        compose("train", ["run_dir=x", "model=mine"], extra_directory=tmp_path)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


PIECES = (
    *"abz_.-+~=/@:,'\"[]{}()$\\ \t\n#%ü0!*?|&^`\0", "run_dir", "data", "${", "range(1,3)", "null",
    "hydra.run.dir=", "???",
)  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["", "run_dir=", "data.train=", "data=", "+x="]), st.lists(st.sampled_from(PIECES), max_size=8))
def test_any_word_is_understood_or_refused_in_one_line(start: str, pieces: list[str]) -> None:
    message = ""
    try:
        compose("lm", [start + "".join(pieces)])
    except ConfigError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_an_unknown_key_passes_compose_and_is_named_by_parse() -> None:
    plain = compose("train", ["run_dir=x", "trainer.max_udpates=3", "model.size.dmi=4"])
    with pytest.raises(ConfigError) as error:
        parse(RunConfig, plain)
    assert sorted(str(error.value).splitlines()) == [
        "model.size.dmi: no such option, did you mean 'dim'?",
        "trainer.max_udpates: no such option, did you mean 'max_updates'?",
    ]


def test_a_missing_run_dir_is_asked_for() -> None:
    with pytest.raises(ConfigError) as error:
        parse(RunConfig, compose("train", []))
    assert str(error.value).startswith("run_dir: a value is needed (folder of the run")


def test_own_yaml_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 77\n")
    assert compose("train", ["run_dir=x", "experiment=mine"], extra_directory=tmp_path)["seed"] == 77
    with pytest.raises(ConfigError, match="there is no such folder"):
        compose("train", ["run_dir=x"], extra_directory=tmp_path / "no")


def test_a_recipe_sets_what_only_some_methods_have(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    recipe = tmp_path / "experiment" / "mine.yaml"
    recipe.write_text("# @package _global_\nmodel:\n  decoder?: {num_layers: 3}\n  length?: {summary: token}\n")

    def model(*words: str) -> dict[str, Any]:
        plain = compose("train", ["run_dir=x", "experiment=mine", *words], extra_directory=tmp_path)
        parse(RunConfig, plain)
        found: dict[str, Any] = plain["model"]
        return found

    assert model("model=mask_predict")["decoder"] == {"num_layers": 3}
    assert model("model=mask_predict")["length"]["summary"] == "token"
    assert model("model=mask_predict", "model.decoder.num_layers=4")["decoder"] == {"num_layers": 4}
    assert model("model=vanilla")["decoder"] == {"num_layers": 3}
    assert model("model=ctc")["decoder"]["num_layers"] == 3 and "length" not in model("model=ctc")
    assert "decoder" not in model("model=kermit")
    with pytest.raises(ConfigError, match=r"model\.decoder: no such option"):
        model("model=kermit", "model.decoder.num_layers=4")
    recipe.write_text("# @package _global_\nmodel:\n  decoder: {num_layers: 3}\n")
    with pytest.raises(ConfigError, match=r"model\.decoder: no such option"):
        model("model=kermit")


@pytest.mark.parametrize("model", MODELS)
def test_the_resolved_configuration_of_tiny_is_the_golden_one(model: str) -> None:
    """A drift of defaults must be seen in a diff. Make it anew by tests/golden/renew.py."""
    plain = compose("train", ["experiment=tiny", f"model={model}", "run_dir=RUN_DIR"])
    assert plain == load_yaml(HERE / "golden" / f"config_{model}.yaml")
