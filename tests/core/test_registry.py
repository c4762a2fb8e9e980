"""The file system is the registry: what is listed, what is loaded, what is refused."""

import dataclasses
import importlib
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from harness.core import registry as discovery
from harness.core.errors import ConfigError, PluginError, UnknownNameError, UsageError
from harness.core.protocols import Engine, Grader
from harness.core.registry import KINDS, Kind, descriptions, entries, load

GOOD = '''
"""Everything is right. A second sentence.

And more.
"""
from dataclasses import dataclass
from harness.core.protocols import Grader
from harness.core.types import Verdict

class Generous(Grader):
    @dataclass(frozen=True)
    class Config:
        reward: float = 1.0

    def grade(self, problem, completion):
        return Verdict("correct", self.config.reward)

GRADER = Generous
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder of graders in addition to the real ones: a package `rooms.graders` on the path, registered as a kind."""
    folder = tmp_path / "rooms" / "graders"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "PACKAGE", tmp_path / "rooms")
    monkeypatch.setitem(KINDS, "graders", Kind("grader", "rooms.graders", "GRADER", Grader))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "rooms"]:
        del sys.modules[name]


def write(folder, name, source):
    (folder / f"{name}.py").write_text(textwrap.dedent(source).lstrip("\n"))


def point_at(folder, distribution, name, value, group="rooms.graders"):
    """An installed distribution with one entry point, as pip leaves it on the disk."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def refusal(plugin_id):
    with pytest.raises(PluginError) as caught:
        load("graders", plugin_id)
    assert repr(plugin_id) in str(caught.value) or f".{plugin_id} " in str(caught.value)
    return str(caught.value)


# --- listing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_listing_imports_no_plugin(kind):
    program = textwrap.dedent(f"""
        import sys
        from harness.core import registry as discovery
        before = set(sys.modules)
        found = discovery.descriptions({kind!r})
        print(*found)
        group = discovery.KINDS[{kind!r}].group
        assert not [name for name in set(sys.modules) - before if name.startswith("harness.")], sys.modules
        assert "torch" not in sys.modules
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(descriptions(kind))


def test_the_description_is_the_first_line_of_the_docstring(room):
    write(room, "good", GOOD)
    write(room, "silent", GOOD.replace('"""', "'''").replace("'''Everything", "x = '''Everything"))
    write(room, "empty", '""" """')
    assert descriptions("graders") == {"empty": "", "good": "Everything is right. A second sentence.", "silent": ""}


def test_private_and_hidden_files_are_not_plugins(room):
    write(room, "good", GOOD)
    write(room, "_rules", "")
    write(room, "__init__", "")
    write(room, "._good", "")  # what macOS leaves on a foreign disk
    (room / ".#good.py").symlink_to("nobody@nowhere.1")  # what emacs leaves next to a file being edited
    (room / "notes.txt").write_text("")
    assert list(entries("graders")) == ["good"]


def test_a_package_with_the_constant_is_a_plugin_and_one_without_it_holds_helpers(room):
    for name, source in (("generous", GOOD), ("helpers", '"""GRADER = one line."""\nGRADERS = ()\n')):
        (room / name).mkdir()
        write(room / name, "__init__", source)
    write(room, "zeal", '"""Later in the alphabet."""')
    assert [(e.id, e.module) for e in entries("graders").values()] == [
        ("generous", "rooms.graders.generous"),
        ("zeal", "rooms.graders.zeal"),
    ]
    assert descriptions("graders")["generous"] == "Everything is right. A second sentence."
    assert load("graders", "generous").__name__ == "Generous"


def test_every_shipped_plugin_has_a_description():
    for kind in KINDS:
        for plugin_id, description in descriptions(kind).items():
            assert description, f"{kind}/{plugin_id}"


def test_lost_plugin_folder_link_is_explained(room):
    shutil.rmtree(room)
    with pytest.raises(PluginError, match="symbolic links"):
        discovery.refuse_lost_links()


# --- loading ----------------------------------------------------------------------------------------------------


def test_valid_plugin_file_is_loaded_and_built(room):
    write(room, "good", GOOD)
    plugin = load("graders", "good")
    built = discovery.build("graders", "good", plugin.Config(reward=0.5))
    assert built.grade(None, None).reward == 0.5


def test_unknown_plugin_error_has_the_nearest_name(room):
    write(room, "good", GOOD)
    with pytest.raises(UnknownNameError, match="no grader is called 'goood'; did you mean 'good'"):
        load("graders", "goood")


@pytest.mark.usefixtures("room")
def test_unknown_plugin_error_without_any_plugin_says_there_is_none():
    with pytest.raises(UnknownNameError, match="there is none"):
        load("graders", "good")


def test_plugin_file_without_its_constant_is_refused_by_name(room):
    write(room, "lacking", GOOD.replace("GRADER =", "Grader ="))
    assert "does not end in the constant GRADER" in refusal("lacking")


@pytest.mark.parametrize("value", ["Generous(Generous.Config())", "3", "lambda problem, completion: None"])
def test_plugin_that_is_not_a_class_is_refused(room, value):
    write(room, "instance", GOOD.replace("GRADER = Generous", f"GRADER = {value}"))
    assert "must be a subclass of harness.core.protocols.Grader" in refusal("instance")


def test_a_class_that_only_has_the_methods_is_refused_with_the_base_class_to_write(room):
    write(room, "duck", GOOD.replace("class Generous(Grader):", "class Generous:"))
    assert refusal("duck") == (
        "the grader 'duck' must be a subclass of harness.core.protocols.Grader: write `class ...(Grader):`"
    )


def test_options_that_are_not_a_dataclass_are_refused(room):
    write(room, "bare", GOOD.replace("    @dataclass(frozen=True)\n", ""))
    assert refusal("bare") == "the options of the grader 'bare' must be a dataclass: decorate its class Config"


def test_a_plugin_without_options_needs_no_config(room):
    write(room, "plain", GOOD.replace("class Config:", "class Other:").replace("self.config.reward", "1.0"))
    plugin = load("graders", "plain")
    assert plugin().grade(None, None).reward == 1.0
    assert dataclasses.fields(plugin.Config) == ()


def test_a_class_without_a_method_that_the_base_class_demands_is_refused_by_that_method(room):
    write(room, "lacking", GOOD.replace("def grade", "def judge"))
    assert refusal("lacking") == "the grader 'lacking' lacks grade, which harness.core.protocols.Grader demands"


def test_inherited_member_implements_the_protocol(room):
    write(room, "good", GOOD)
    write(
        room,
        "heir",
        """
        from rooms.graders.good import Generous

        class Heir(Generous):
            pass

        GRADER = Heir
        """,
    )
    assert load("graders", "heir").__name__ == "Heir"


class Strict(Grader[str]):
    strictness: float


def test_an_annotated_attribute_of_a_base_class_is_demanded_and_an_annotation_is_enough(room, monkeypatch):
    monkeypatch.setitem(KINDS, "graders", dataclasses.replace(KINDS["graders"], base=Strict))
    source = GOOD.replace("class Generous(Grader):", "class Generous(Strict):")
    source = source.replace("from harness", f"from {__name__} import Strict\nfrom harness", 1)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, SimpleNamespace(Strict=Strict)))
    write(room, "good", source)
    write(room, "strict", source.replace("    @dataclass", "    strictness: float\n\n    @dataclass"))
    assert "lacks strictness" in refusal("good")
    assert load("graders", "strict").__name__ == "Generous"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def (:", "SyntaxError"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("from harness.core.types import Nonsense", "ImportError: cannot import name 'Nonsense'"),
    ],
)
def test_a_plugin_that_does_not_import_is_named_with_the_reason(room, source, what):
    write(room, "broken", source)
    message = refusal("broken")
    assert what in message
    assert "rooms.graders.broken" in message


@pytest.mark.parametrize("source", [b"def (:\n", b'x = "\xff"\n', b"x = 1\x00\n", b"# coding: nonsense\n"])
def test_broken_plugin_file_is_listed_as_broken_and_leaves_the_others_usable(room, source):
    write(room, "good", GOOD)
    (room / "broken.py").write_bytes(source)
    found = descriptions("graders")
    assert found["good"] == "Everything is right. A second sentence."
    assert found["broken"].startswith("(this file does not parse")
    assert load("graders", "good").__name__ == "Generous"


# --- entry points -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "constant"), [("thirdparty", "GRADER"), ("thirdparty:THEIRS", "THEIRS")])
def test_an_installed_distribution_adds_a_plugin(room, tmp_path, value, constant):
    write(room, "good", GOOD)
    write(tmp_path, "thirdparty", GOOD.replace("GRADER =", f"{constant} ="))
    point_at(tmp_path, "foreign-graders", "theirs", value)
    assert descriptions("graders") == {
        "good": "Everything is right. A second sentence.",
        "theirs": "from foreign-graders",
    }
    assert load("graders", "theirs").__name__ == "Generous"
    del sys.modules["thirdparty"]


@pytest.mark.usefixtures("room")
def test_an_installed_plugin_is_held_to_the_base_class_too(tmp_path):
    write(tmp_path, "thirdparty", GOOD.replace("def grade", "def judge"))
    point_at(tmp_path, "foreign-graders", "theirs", "thirdparty")
    assert "lacks grade" in refusal("theirs")
    del sys.modules["thirdparty"]


def test_an_installed_plugin_whose_module_is_gone_is_refused_only_when_asked_for(room, tmp_path):
    write(room, "good", GOOD)
    point_at(tmp_path, "foreign-graders", "theirs", "module_that_is_gone")
    assert list(descriptions("graders")) == ["good", "theirs"]
    assert load("graders", "good").__name__ == "Generous"
    assert "No module named 'module_that_is_gone'" in refusal("theirs")


def test_two_plugins_with_one_id_are_refused_by_both_origins(room, tmp_path):
    write(room, "good", GOOD)
    point_at(tmp_path, "foreign-graders", "good", "thirdparty")
    with pytest.raises(PluginError, match="two plug-ins have the id 'good' of a grader") as caught:
        entries("graders")
    assert "rooms.graders.good and thirdparty" in str(caught.value)
    assert "rename or uninstall one" in str(caught.value)


@pytest.mark.usefixtures("room")
def test_two_distributions_with_one_id_are_refused_too(tmp_path):
    point_at(tmp_path, "one", "theirs", "module_one")
    point_at(tmp_path, "two", "theirs", "module_two")
    with pytest.raises(PluginError, match=r"module_(one|two) and module_(one|two)"):
        entries("graders")


@pytest.mark.usefixtures("room")
def test_entry_points_of_other_groups_are_ignored(tmp_path):
    point_at(tmp_path, "foreign-things", "theirs", "thirdparty", group="rooms.elsewhere")
    assert entries("graders") == {}


# --- ids --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("room")
def test_an_installed_plugin_has_the_id_of_its_entry_point(tmp_path):
    write(tmp_path, "thirdparty", GOOD)
    point_at(tmp_path, "foreign-graders", "theirs", "thirdparty")
    assert load("graders", "theirs").plugin_id == "theirs"
    assert load("graders", "theirs")().plugin_id == "theirs"
    del sys.modules["thirdparty"]


@pytest.mark.usefixtures("room")
def test_a_class_imported_directly_has_the_id_of_its_entry_point_too(tmp_path):
    write(tmp_path, "thirdparty", GOOD)
    point_at(tmp_path, "foreign-graders", "theirs", "thirdparty")
    plugin = importlib.import_module("thirdparty").GRADER
    assert discovery.id_of("graders", plugin) == "theirs"
    assert plugin.plugin_id == "theirs"
    del sys.modules["thirdparty"]


def test_the_id_of_a_file_is_its_name_and_a_subclass_has_its_own(room):
    write(room, "good", GOOD)
    write(room, "heir", "from rooms.graders.good import Generous\nclass Heir(Generous): ...\nGRADER = Heir")
    assert [load("graders", name).plugin_id for name in ("heir", "good", "heir")] == ["heir", "good", "heir"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_that_ships_has_the_id_it_is_listed_by(kind):
    for plugin_id in entries(kind):
        assert load(kind, plugin_id).plugin_id == plugin_id


# --- optional abilities -----------------------------------------------------------------------------------------


class Minimal(Engine):
    def open(self, source): ...

    def close(self): ...

    def generate(self, requests):
        return iter(())


def test_an_engine_without_optional_abilities_says_so_or_does_nothing():
    engine = Minimal()
    assert (engine.follows_policy, engine.can_score, engine.is_remote) == (False, False, False)
    assert (engine.n_at_once, engine.logp_is_exact, engine.describe_model("x")) == (None, False, {})
    assert engine.check_prompts(None, []) is engine.sleep() is None
    with pytest.raises(ConfigError, match="can't load new weights during training; use hf or vllm"):
        engine.load_weights([], 1)
    with pytest.raises(ConfigError, match="gives no log-likelihoods"):
        engine.score([])


@pytest.mark.parametrize(("engine", "abilities"), [("hf", (1, 1, 0)), ("scripted", (1, 0, 0)), ("openai", (0, 0, 1))])
def test_engines_state_what_they_can_do(engine, abilities):
    plugin = load("engines", engine)
    assert (plugin.follows_policy, plugin.can_score, plugin.is_remote) == abilities


def test_a_task_without_demonstrations_refuses_to_demonstrate():
    assert load("tasks", "countdown").has_demonstrations
    aime = load("tasks", "aime24")
    assert not aime.has_demonstrations
    with pytest.raises(ConfigError, match="the task 'aime24' has no demonstrations"):
        aime(aime.Config()).demonstrate(None, 0)


def test_a_plugin_that_is_not_a_family_has_no_members():
    with pytest.raises(PluginError, match="'exact' is not a family of plug-ins, so there is no exact:more"):
        load("graders", "exact:more")


def test_an_id_that_is_settings_of_another_objective_is_explained():
    with pytest.raises(UsageError, match=r"'dapo' is the objective grpo with the settings of .*countdown-dapo"):
        load("objectives", "dapo")
