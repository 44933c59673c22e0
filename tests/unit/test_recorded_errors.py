"""Errors as JSON: classification, record, and replay."""

import asyncio
import copy
import errno
import importlib.util
import json
import pickle
import subprocess
import sys
import time
import traceback
import types
from dataclasses import dataclass
from functools import partial

import asyncpg
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st

from pgqrs.codecs import failures
from pgqrs.codecs.failures import Failure, dump_error, is_terminal, is_terminal_text, load_error
from pgqrs.errors import (
    PgqrsError,
    SerializationError,
    StepError,
    StepFailedError,
    TerminalError,
    TransientError,
    WorkflowNotFoundError,
)


def replay(error, *, terminal=True) -> StepFailedError:
    return load(dump_error(error, terminal=terminal))


def load(text) -> StepFailedError:
    json.loads(text)
    text.encode()
    assert "\0" not in text
    return load_error(text, workflow_id=7, step_id="fetch")


def load_document(**document) -> StepFailedError:
    return load(json.dumps({"type": "X", "message": "m", "terminal": True} | document))


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


class PaymentError(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"payment failed: {code}")
        self.code = code
        self.detail = detail


class WithoutSuper(Exception):
    def __init__(self, *, reason):
        self.reason = reason

    def __str__(self):
        return f"because of {self.reason}"


class Outer:
    class InnerError(KeyError):
        pass


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int
    when: object = None


class Slotted(Exception):
    __slots__ = ("code", "thing")

    def __init__(self, code):
        self.code = code


class Final(ValueError):
    def __init_subclass__(cls):
        raise TypeError("final")


class NeedsKeyword(Exception):
    registry = []  # noqa: RUF012

    def __init_subclass__(cls, *, code):
        cls.registry.append(code)


class PickyNew(LookupError):
    def __new__(cls, one, two):
        return super().__new__(cls, one, two)


class Meta(type):
    def __new__(mcs, name, bases, namespace):
        if name != "FinalByMeta":
            raise RuntimeError("no subclasses")
        return super().__new__(mcs, name, bases, namespace)


class FinalByMeta(ArithmeticError, metaclass=Meta):
    pass


class Frozenish(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


class ReadOnly(Exception):
    @property
    def workflow_id(self):
        raise RuntimeError("never asked")

    @property
    def step_id(self):
        return 1


class Shadow(Exception):
    def __str__(self):
        return f"{self.gone}"

    __repr__ = __str__

    def __reduce_ex__(self, protocol):
        raise TypeError("not picklable")


class HttpError(OSError):
    def __init__(self, response, status):
        super().__init__(f"HTTP {status}")
        self.response = response
        self.status = status


class JobsError(ExceptionGroup):
    def __new__(cls, message, errors, job=None):
        self = super().__new__(cls, message, errors)
        self.job = job
        return self

    def derive(self, excs):
        return JobsError(self.message, excs, self.job)


class NeedyGroup(ExceptionGroup):
    def derive(self, excs):
        return NeedyGroup(self.message, excs, self.secret)


class Weird(Exception):
    """Raises whenever it is asked for something."""

    def __str__(self):
        raise RuntimeError

    __repr__ = __str__

    @property
    def args(self):
        raise RuntimeError

    @property
    def __dict__(self):
        raise RuntimeError

    def __getattr__(self, name):
        raise RuntimeError


class TestDefaults:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError(),
            TypeError(),
            KeyError(),
            IndexError(),
            ZeroDivisionError(),
            AssertionError(),
            AttributeError(),
            NameError(),
            UnboundLocalError(),
            NotImplementedError(),  # a class under test, no unfinished end
            UnicodeError(),
            json.JSONDecodeError("m", "doc", 0),
            SerializationError("r"),
            TerminalError(),
            Outer.InnerError(),
        ],
    )
    def test_default_terminal_classes(self, error):
        assert is_terminal(error) is True

    @pytest.mark.parametrize(
        "error",
        [
            Exception(),
            RuntimeError(),
            OSError(),
            TimeoutError(),
            ConnectionError(),
            PgqrsError(),
            TransientError(),
            PaymentError(1, detail=2),
            StopIteration(),
            RecursionError(),
            MemoryError(),
        ],
    )
    def test_default_transient_classes(self, error):
        assert is_terminal(error) is False


class Both(ValueError, TransientError):
    pass


class Neither(TerminalError, OSError):
    pass


class TestPrecedence:
    def test_pgqrs_classes_override_the_defaults(self):
        assert not is_terminal(Both())
        assert is_terminal(Neither())

    def test_options_override_the_pgqrs_classes(self):
        assert is_terminal(Both(), terminal=(Both,))
        assert not is_terminal(Neither(), transient=(OSError,))
        assert not is_terminal(TerminalError(), transient=(TerminalError,))

    def test_options_override_the_defaults(self):
        assert is_terminal(OSError(), terminal=(OSError,))
        assert not is_terminal(json.JSONDecodeError("m", "d", 0), transient=(ValueError,))

    def test_the_most_specific_option_wins(self):
        assert is_terminal(KeyError(), terminal=(KeyError,), transient=(LookupError, Exception))
        assert not is_terminal(KeyError(), terminal=(LookupError, Exception), transient=(KeyError,))
        assert is_terminal(IndexError(), terminal=(LookupError, Exception), transient=(KeyError,))

    def test_a_tie_is_terminal(self):
        assert is_terminal(OSError(), terminal=(OSError,), transient=(OSError,))

    def test_options_that_do_not_match_change_nothing(self):
        assert is_terminal(ValueError(), transient=(OSError,))
        assert not is_terminal(OSError(), terminal=(ValueError,))


class TestGroups:
    def test_a_group_is_terminal_if_a_leaf_is(self):
        assert is_terminal(ExceptionGroup("g", [OSError(), ExceptionGroup("h", [ValueError()])]))
        assert not is_terminal(ExceptionGroup("g", [OSError(), ExceptionGroup("h", [OSError()])]))

    def test_options_apply_to_the_leaves(self):
        group = ExceptionGroup("g", [OSError(), ValueError()])
        assert not is_terminal(group, transient=(Exception,))
        assert not is_terminal(group, transient=(ValueError,))
        assert is_terminal(ExceptionGroup("g", [OSError()]), terminal=(OSError,))

    def test_options_can_name_the_group(self):
        assert not is_terminal(ExceptionGroup("g", [ValueError()]), transient=(ExceptionGroup,))
        assert is_terminal(JobsError("g", [OSError()]), terminal=(BaseExceptionGroup,))
        assert not is_terminal(JobsError("g", [ValueError()]), terminal=(ExceptionGroup,), transient=(JobsError,))

    def test_options_can_name_an_inner_group(self):
        group = ExceptionGroup("g", [JobsError("h", [ValueError()])])
        assert not is_terminal(group, transient=(JobsError,))

    def test_deep_group_is_classified(self):
        group = ExceptionGroup("g", [ValueError()])
        for _ in range(5000):
            group = ExceptionGroup("g", [group])
        assert is_terminal(group)
        assert not is_terminal(group, transient=(ValueError,))


class TestClassificationOfReplays:
    @pytest.mark.parametrize("terminal", [True, False])
    @pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), ExceptionGroup("g", [ValueError()]), "text"])
    def test_recorded_classification_is_kept(self, error, terminal):
        again = replay(error, terminal=terminal)
        assert is_terminal(again) is terminal
        assert is_terminal_text(dump_error(again, terminal=is_terminal(again))) is terminal

    def test_options_override_the_recorded_classification(self):
        assert not is_terminal(replay(ValueError(), terminal=True), transient=(ValueError,))
        assert is_terminal(replay(ValueError(), terminal=False), terminal=(ValueError,))

    def test_options_treat_a_replay_like_the_original_error(self):
        options = {"terminal": (PgqrsError,), "transient": (ValueError,)}
        assert is_terminal(ValueError(), **options) is is_terminal(replay(ValueError()), **options) is False

    def test_options_can_name_step_failed_error(self):
        assert not is_terminal(replay("text", terminal=True), transient=(StepFailedError,))

    def test_leaves_keep_their_classification(self):
        os_error, value_error = replay(ExceptionGroup("g", [OSError(), ValueError()])).exceptions
        assert is_terminal(value_error)
        assert not is_terminal(os_error)

    @pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"terminal": 0}', "nonsense"])
    def test_unclassified_record_is_terminal(self, text):
        assert is_terminal_text(text) is True


class TestRecord:
    def test_record_has_the_documented_keys(self):
        document = json.loads(dump_error(PaymentError("c1", detail=[1]), terminal=False))
        assert document == {
            "type": "PaymentError",
            "message": "payment failed: c1",
            "terminal": False,
            "args": ["payment failed: c1"],
            "mro": [f"{__name__}:PaymentError", "builtins:Exception"],
            "attributes": {"code": "c1", "detail": [1]},
        }

    def test_type_and_message_come_first(self):
        assert dump_error(ValueError("no"), terminal=True).startswith(
            '{"type": "ValueError", "message": "no", "terminal": true'
        )

    def test_text_without_an_exception(self):
        assert json.loads(dump_error("no luck", terminal=True)) == {
            "type": "StepFailedError",
            "message": "no luck",
            "terminal": True,
        }

    def test_record_contains_a_traceback(self):
        text = json.loads(dump_error(raised(ValueError("no")), terminal=True))["traceback"]
        assert "test_recorded_errors" in text
        assert text.endswith("ValueError: no\n")

    def test_traceback_size_is_bounded(self):
        def sink(depth):
            return sink(depth - 1) + 1 if depth else int("x" * 100_000)

        with pytest.raises(ValueError) as caught:
            sink(500)
        assert len(json.loads(dump_error(caught.value, terminal=True))["traceback"]) < 20_000

    def test_parsed_record_is_written_unchanged(self):
        text = dump_error(raised(ExceptionGroup("g", [PaymentError(1, detail="x"), ValueError()])), terminal=True)
        assert Failure.parse(text).text() == text


class TestReplayedClasses:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("Invalid data"),
            ValueError(),
            KeyError("missing"),
            Outer.InnerError("k"),
            PaymentError("c", detail="d"),
            WithoutSuper(reason="rain"),
            FrozenError(3),
            Slotted(4),
            Final("f"),
            PickyNew(1, 2),
            Frozenish("x"),
            ReadOnly("x"),
            StopAsyncIteration(),
            RecursionError("deep"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
            SyntaxError("bad", ("file.py", 1, 2, "text", 1, 3)),
            ImportError("no module", name="nope", path="/x"),
            ModuleNotFoundError("no module", name="nope"),
            OSError("just text"),
            FileNotFoundError(errno.ENOENT, "No such file", "a.txt"),
            OSError(errno.EACCES, "denied", "a", None, "b"),
            BlockingIOError(errno.EAGAIN, "later", 17),
            HttpError(object(), 503),
            json.JSONDecodeError("Expecting value", "doc", 1),
            AttributeError("no attribute", name="n", obj="text"),
            NameError("no name", name="n"),
            TimeoutError(),
            asyncio.IncompleteReadError(b"ab", 4),
            subprocess.CalledProcessError(2, ["false", "-x"]),
            SerializationError("reason", path="$.a"),
            TerminalError("t"),
            TransientError("t"),
            WorkflowNotFoundError(99),
            StepError("m", workflow_id=1, step_id="s"),
            asyncpg.UniqueViolationError("duplicate key"),
            asyncpg.InterfaceError("closed"),
            sqlalchemy.exc.IntegrityError("INSERT ...", {"a": 1}, Exception("orig")),
            sqlalchemy.exc.NoResultFound("no row"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_both_classes_and_the_same_text(self, error):
        again = replay(error)
        assert isinstance(again, type(error))
        assert isinstance(again, StepFailedError)
        assert str(again) == str(error)
        assert (again.workflow_id, again.step_id) == (7, "fetch")
        assert type(error).__name__ in repr(again)
        with pytest.raises(type(error)):
            raise again
        assert f"[{type(error).__qualname__}]" in "".join(traceback.format_exception(again))

    def test_unextendable_class_falls_back_to_its_base(self):
        again = replay(FinalByMeta("x"))
        assert isinstance(again, ArithmeticError)
        assert not isinstance(again, FinalByMeta)
        assert str(again) == "x"

    def test_init_subclass_of_the_original_is_not_called(self):
        class Sub(NeedsKeyword, code=1):
            pass

        sys.modules[__name__].Sub = Sub
        Sub.__qualname__ = "Sub"
        try:
            assert isinstance(replay(Sub("x")), Sub)
        finally:
            del sys.modules[__name__].Sub
        assert NeedsKeyword.registry == [1]

    def test_replay_shows_the_original_class_name(self):
        again = replay(ValueError("Invalid data"))
        assert repr(again) == "StepFailedError[ValueError]('Invalid data')"
        assert traceback.format_exception_only(again) == [
            "pgqrs.errors.StepFailedError[ValueError]: Invalid data\n"
        ]

    def test_text_without_an_exception(self):
        again = replay("no luck")
        assert str(again) == "no luck"
        assert again.args == ("no luck",)
        assert repr(again) == "StepFailedError('no luck')"
        assert type(again).__mro__[1:] == replay(Exception("x")).__class__.__mro__[1:]
        assert type(again).__qualname__ == "StepFailedError"

    def test_missing_class_falls_back_to_its_base(self):
        again = load_document(
            type="GoneError", mro=["nowhere:GoneError", "builtins:KeyError", "builtins:Exception"]
        )
        assert isinstance(again, KeyError)
        assert repr(again) == "StepFailedError[GoneError]('m')"

    def test_local_class_falls_back_to_its_base(self):
        class LocalError(TimeoutError):
            pass

        again = replay(LocalError("late"))
        assert isinstance(again, TimeoutError)
        assert not isinstance(again, LocalError)

    def test_reloaded_class_is_used(self):
        module = types.ModuleType("reloaded_module")
        sys.modules["reloaded_module"] = module
        try:
            for _ in range(2):
                module.AppError = type("AppError", (Exception,), {"__module__": "reloaded_module"})
                assert isinstance(replay(module.AppError("x")), module.AppError)
        finally:
            del sys.modules["reloaded_module"]

    def test_replay_classes_are_cached(self):
        assert type(replay(ValueError(1))) is type(replay(ValueError(2)))

    def test_replay_class_creates_errors_of_the_original_class(self):
        again = replay(ValueError("x"))
        other = type(again)("context: x")
        assert type(other) is ValueError
        assert other.args == ("context: x",)


class TestParts:
    def test_args_and_attributes(self):
        again = replay(PaymentError("c", detail={"a": (1, 2)}))
        assert again.args == ("payment failed: c",)
        assert (again.code, again.detail) == ("c", {"a": [1, 2]})

    def test_non_json_attributes_are_omitted(self):
        again = replay(PaymentError(object(), detail="d"))
        assert not hasattr(again, "code")
        assert again.detail == "d"

    def test_args_keep_their_positions(self):
        again = replay(ValueError("a", b"bytes", 3))
        assert again.args == ("a", "b'bytes'", 3)

    def test_empty_args_stay_empty(self):
        assert replay(ValueError()).args == ()

    def test_fields_of_builtin_errors_are_kept(self):
        again = replay(FileNotFoundError(errno.ENOENT, "No such file", "a.txt", None, "b.txt"))
        assert (again.errno, again.strerror) == (errno.ENOENT, "No such file")
        assert (again.filename, again.filename2) == ("a.txt", "b.txt")
        assert again.args == (errno.ENOENT, "No such file")
        assert replay(BlockingIOError(errno.EAGAIN, "later", 17)).characters_written == 17
        error = replay(SyntaxError("bad", ("file.py", 1, 2, "text", 1, 3)))
        assert (error.msg, error.filename, error.lineno, error.offset, error.text) == (
            "bad",
            "file.py",
            1,
            2,
            "text",
        )
        error = replay(ImportError("no", name="n", path="/p"))
        assert (error.msg, error.name, error.path) == ("no", "n", "/p")
        error = replay(UnicodeEncodeError("ascii", "é", 0, 1, "why"))
        assert (error.encoding, error.object, error.start, error.end, error.reason) == ("ascii", "é", 0, 1, "why")
        assert replay(AttributeError("x", name="n", obj=[1])).obj == [1]

    def test_slots_are_kept(self):
        assert replay(Slotted(4)).code == 4
        assert not hasattr(replay(Slotted(object())), "code")

    def test_json_decode_error_keeps_its_position(self):
        error = replay(json.JSONDecodeError("Expecting value", "a\nb", 2))
        assert (error.msg, error.doc, error.pos, error.lineno, error.colno) == ("Expecting value", "a\nb", 2, 2, 1)

    def test_notes_are_kept(self):
        error = ValueError("x")
        error.add_note("first")
        error.add_note("second\0")
        again = replay(error)
        assert again.__notes__ == ["first", "second\\x00"]
        again.add_note("third")
        assert replay(again).__notes__ == ["first", "second\\x00", "third"]
        assert not hasattr(replay(ValueError()), "__notes__")

    def test_attribute_named_terminal_is_kept(self):
        error = ValueError("gate closed")
        error.terminal = "T1"
        assert replay(error, terminal=True).terminal == "T1"

    def test_replay_has_the_ids_of_the_failed_step(self):
        assert replay(WorkflowNotFoundError(99)).workflow_id == 7
        again = replay(ReadOnly("x"))
        assert (again.workflow_id, again.step_id) == (7, "fetch")


class TestRecordedTwice:
    """A nested step's replayed error brings down the outer step."""

    def test_the_original_class_is_recorded(self):
        first = dump_error(raised(PaymentError("c", detail=1)), terminal=True)
        second = dump_error(raised(load(first)), terminal=False)
        assert json.loads(second) == json.loads(first) | {"terminal": False}

    def test_shadowed_attributes_are_recorded(self):
        first = dump_error(raised(WorkflowNotFoundError(99)), terminal=True)
        assert json.loads(first)["attributes"] == {"workflow_id": 99}
        assert dump_error(load(first), terminal=True) == first

    def test_missing_class_is_recorded_unchanged(self):
        first = json.dumps({"type": "Gone", "message": "m", "terminal": True, "args": [1], "mro": ["no:Gone"]})
        assert json.loads(dump_error(load(first), terminal=True)) == json.loads(first)

    def test_changed_attributes_are_recorded(self):
        again = replay(PaymentError("c", detail=1))
        again.detail = 2
        again.more = 3
        assert json.loads(dump_error(again, terminal=True))["attributes"] == {"code": "c", "detail": 2, "more": 3}

    def test_group_of_replays_is_recorded_unchanged(self):
        first = dump_error(raised(ExceptionGroup("g", [ValueError("a"), OSError(2, "b")])), terminal=True)
        assert dump_error(load(first), terminal=True) == first

    def test_new_group_of_replays_is_recorded(self):
        group = ExceptionGroup("g", [replay(ValueError("a")), replay("text")])
        leaves = replay(group).exceptions
        assert [str(leaf) for leaf in leaves] == ["a", "text"]
        assert isinstance(leaves[0], ValueError)


class TestReplayedGroups:
    def group(self):
        return ExceptionGroup(
            "all failed",
            [
                ValueError("a"),
                ExceptionGroup("inner", [OSError(2, "b"), KeyError("c")]),
                PaymentError(1, detail=2),
            ],
        )

    def test_except_star_catches_replayed_leaves(self):
        caught = []
        try:
            raise replay(self.group())
        except* KeyError as group:
            caught.append(group.exceptions[0].exceptions[0])
        except* (ValueError, OSError) as group:
            caught += [group.exceptions[0], group.exceptions[1].exceptions[0]]
        except* PaymentError as group:
            caught += group.exceptions
        assert [str(error) for error in caught] == ["'c'", "a", "[Errno 2] b", "payment failed: 1"]
        assert all(isinstance(error, StepFailedError) for error in caught)
        assert caught[-1].detail == 2

    def test_uncaught_leaves_are_raised_again(self):
        with pytest.raises(ExceptionGroup) as caught:
            try:
                raise replay(self.group())
            except* ValueError:
                pass
        assert [type(each).__qualname__ for each in caught.value.exceptions] == [
            "ExceptionGroup",
            "StepFailedError[PaymentError]",
        ]

    def test_group_keeps_its_class_and_text(self):
        again = replay(self.group())
        assert isinstance(again, ExceptionGroup)
        assert isinstance(again, StepFailedError)
        assert str(again) == str(self.group())
        assert again.message == "all failed"
        assert len(again.exceptions) == 3
        assert (again.workflow_id, again.exceptions[0].step_id) == (7, "fetch")

    def test_group_supports_split_subgroup_and_derive(self):
        again = replay(self.group())
        matching, rest = again.split(KeyError)
        assert isinstance(matching.exceptions[0].exceptions[0], KeyError)
        assert len(rest.exceptions) == 3
        assert again.subgroup(TimeoutError) is None
        assert again.subgroup(Exception) is again
        assert again.derive([ValueError()]).message == "all failed"

    def test_custom_derive_is_used(self):
        again = replay(JobsError("jobs", [ValueError(), KeyError()], "nightly"))
        assert isinstance(again, JobsError)
        assert again.job == "nightly"
        part = again.subgroup(ValueError)
        assert type(part) is JobsError
        assert part.job == "nightly"

    def test_failing_derive_falls_back_to_exception_group(self):
        part = replay(NeedyGroup("needy", [ValueError(), KeyError()])).subgroup(ValueError)
        assert type(part) is ExceptionGroup
        assert part.message == "needy"

    def test_missing_group_class_falls_back_to_exception_group(self):
        again = load_document(mro=["no:Gone"], errors=[{"message": "leaf", "mro": ["builtins:ValueError"]}])
        assert isinstance(again, ExceptionGroup)
        assert isinstance(again.exceptions[0], ValueError)

    def test_base_group_of_exceptions_becomes_an_exception_group(self):
        assert isinstance(replay(BaseExceptionGroup("g", [ValueError()])), ExceptionGroup)

    def test_base_exception_leaf_becomes_an_exception(self):
        again = replay(BaseExceptionGroup("g", [KeyboardInterrupt("stop"), ValueError("v")]))
        assert isinstance(again, ExceptionGroup)
        assert not isinstance(again.exceptions[0], KeyboardInterrupt)
        assert str(again.exceptions[0]) == "stop"
        assert isinstance(again.exceptions[1], ValueError)

    def test_wide_group_is_bounded(self):
        text = dump_error(ExceptionGroup("g", [ValueError("x" * 5000)] * 20_000), terminal=True)
        assert len(text) < 4_000_000
        assert 100 < len(load(text).exceptions) <= 20_000

    def test_deep_group_is_bounded(self):
        group = ExceptionGroup("g", [ValueError("leaf")])
        for _ in range(2000):
            group = ExceptionGroup("g", [group])
        again = replay(group)
        assert isinstance(again, ExceptionGroup)
        assert isinstance(again.exceptions[0].exceptions[0], ExceptionGroup)


class TestCopies:
    @pytest.mark.parametrize(
        "error",
        [
            PaymentError("c", detail=[1]),
            FileNotFoundError(2, "No such file", "a"),
            JobsError("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])], 1),
            Shadow("x"),
            "text",
        ],
    )
    @pytest.mark.parametrize(
        "duplicate",
        [copy.copy, copy.deepcopy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(6))],
    )
    def test_copies_are_equal(self, error, duplicate):
        again = replay(error, terminal=False)
        again.add_note("seen")
        other = duplicate(again)
        assert other is not again
        assert type(other) is type(again)
        assert (str(other), repr(other), other.__notes__) == (str(again), repr(again), ["seen"])
        assert (other.workflow_id, other.step_id, is_terminal(other)) == (7, "fetch", False)
        assert dump_error(other, terminal=False) == dump_error(again, terminal=False)

    def test_replay_can_be_pickled_across_processes(self):
        data = pickle.dumps(replay(PaymentError("c", detail=1)))
        code = (
            "import pickle, sys; e = pickle.loads(sys.stdin.buffer.read()); "
            "print(type(e).__qualname__, e, e.workflow_id, e.step_id, e.code)"
        )
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
        assert done.stdout.decode().strip() == "StepFailedError payment failed: c 7 fetch c"


class TestWeirdErrors:
    def test_error_with_failing_methods_is_replayed(self):
        again = replay(Weird("x"))
        assert isinstance(again, Weird)
        assert "Weird" in str(again)
        assert "Weird" in repr(again)

    def test_text_made_of_lost_attributes_is_kept(self):
        error = Shadow("x")
        error.gone = object()
        assert str(replay(error)) == str(error)

    def test_args_with_a_failing_repr_are_replayed(self):
        class Shy:
            def __repr__(self):
                raise RuntimeError

        assert replay(ValueError(Shy(), 1)).args[1] == 1

    def test_attributes_with_odd_names_are_kept(self):
        error = ValueError()
        error.__dict__.update({"": 1, "a b": 2, "\ud800": 3, "\0": 4, "__class__": 5, "__dict__": 6})
        again = replay(error)
        assert isinstance(again, ValueError)
        assert vars(again)["a b"] == 2
        assert "__class__" not in vars(again)

    def test_invalid_notes_are_dropped(self):
        error = ValueError()
        error.__notes__ = "not a list"
        assert not hasattr(replay(error), "__notes__")

    def test_cycle_of_causes_is_recorded(self):
        one, two = ValueError("one"), ValueError("two")
        one.__cause__, two.__cause__ = two, one
        assert str(replay(raised(one))) == "one"

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt("x"), SystemExit(3), GeneratorExit(), asyncio.CancelledError()]
    )
    def test_base_exception_is_replayed_as_a_plain_error(self, error):
        again = replay(error)
        assert type(again).__qualname__ == "StepFailedError"
        assert isinstance(again, Exception)
        assert not isinstance(again, type(error))

    @pytest.mark.parametrize(
        ("message", "stored"), [("a\0b", "a\\x00b"), ("\ud800", "\\ud800"), ("\\u0000", "\\u0000")]
    )
    def test_unstorable_text_is_escaped(self, message, stored):
        assert str(replay(ValueError(message))) == stored
        assert str(replay(message)) == stored
        assert replay(ValueError(message)).args == (stored,)

    def test_long_text_is_truncated(self):
        for error in (ValueError("x" * 1_000_000), "x" * 1_000_000):
            text = dump_error(error, terminal=True)
            assert len(text) < 100_000
            assert "characters more" in str(load(text))

    def test_many_and_long_attributes_are_bounded(self):
        error = ValueError(*["x" * 1000] * 1000)
        error.__dict__.update({f"a{number}": "x" * 5000 for number in range(1000)})
        assert len(dump_error(error, terminal=True)) < 200_000


garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["os:system", "builtins:ValueError", "builtins:ExceptionGroup", "builtins:UnicodeDecodeError"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "message",
                    "terminal",
                    "mro",
                    "args",
                    "attributes",
                    "notes",
                    "errors",
                    "traceback",
                    "errno",
                    "start",
                    "object",
                    "derive",
                ]
            )
            | st.text(max_size=10),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


class TestGarbage:
    @given(garbage)
    def test_any_json_gives_a_step_failed_error(self, document):
        error = load_error(json.dumps(document), workflow_id=7, step_id="fetch")
        assert isinstance(error, StepFailedError)
        assert (error.workflow_id, error.step_id) == (7, "fetch")
        assert isinstance(str(error) + repr(error), str)
        pickle.loads(pickle.dumps(error))

    @given(st.text())
    def test_any_text_gives_a_step_failed_error(self, text):
        assert isinstance(load_error(text, workflow_id=7, step_id="fetch"), StepFailedError)

    @pytest.mark.parametrize("text", ["", "nonsense", "[]", "3", "null", "{}", "[" * 100_000, '"text"'])
    def test_invalid_record_gives_a_step_failed_error(self, text):
        error = load_error(text, workflow_id=7, step_id="fetch")
        assert type(error).__qualname__ == "StepFailedError"
        assert "recorded error" in str(error)

    def test_deeply_nested_records_are_read(self):
        text = '{"errors": [' * 20_000 + "]}" * 20_000
        assert isinstance(load_error(text, workflow_id=7, step_id="fetch"), StepFailedError)
        text = '{"errors": [' * 300 + "]}" * 300
        assert isinstance(load_error(text, workflow_id=7, step_id="fetch"), StepFailedError)

    @pytest.mark.parametrize(
        "name",
        [
            "os:system",
            "builtins:KeyboardInterrupt",
            "builtins:SystemExit",
            "builtins:GeneratorExit",
            "builtins:BaseException",
            "builtins:BaseExceptionGroup",
            "builtins:Exception",
            "builtins:int",
            "builtins:print",
            "builtins",
            "builtins:",
            ":ValueError",
            "sys:modules.builtins.ValueError",
            "builtins:ValueError.mro",
            "builtins:ValueError.__class__",
            "builtins:ExceptionGroup",
        ],
    )
    def test_non_exception_names_are_skipped(self, name):
        assert type(load_document(mro=[name])).__qualname__ == "StepFailedError"
        assert isinstance(load_document(mro=[name, "builtins:KeyError"]), KeyError)

    def test_replay_imports_no_module(self):
        assert "this" not in sys.modules
        load_document(mro=["this:Error", "antigravity:Error"])
        assert "this" not in sys.modules
        assert "antigravity" not in sys.modules

    def test_lazy_module_is_not_loaded(self, tmp_path):
        (tmp_path / "lazy_module.py").write_text("raise SystemExit('it was run')")
        spec = importlib.util.spec_from_file_location("lazy_module", tmp_path / "lazy_module.py")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["lazy_module"] = module
        try:
            spec.loader.exec_module(module)
            assert isinstance(load_document(mro=["lazy_module:SomeError"]), StepFailedError)
        finally:
            del sys.modules["lazy_module"]

    def test_found_objects_run_no_code(self):
        class Proxy:
            @property
            def __class__(self):
                raise SystemExit("it was asked")

        class Talkative(type):
            def __getattribute__(cls, name):
                raise SystemExit("it was asked")

        module = types.ModuleType("proxy_module")
        module.__getattr__ = lambda name: sys.exit("it was asked")
        module.Proxy, module.Talkative = Proxy(), Talkative("Talkative", (), {})
        sys.modules["proxy_module"] = module
        try:
            load_document(mro=["proxy_module:Proxy", "proxy_module:Talkative.Error", "proxy_module:missing"])
        finally:
            del sys.modules["proxy_module"]

    def test_properties_are_not_called(self):
        class Error(Exception):
            @property
            def code(self):
                raise SystemExit

            @code.setter
            def code(self, value):
                raise SystemExit

            def __setattr__(self, name, value):
                raise SystemExit

        module = types.ModuleType("property_module")
        module.Error = Error
        sys.modules["property_module"] = module
        try:
            assert isinstance(load_document(mro=["property_module:Error"], attributes={"code": 1}), Error)
        finally:
            del sys.modules["property_module"]

    def test_attributes_cannot_replace_pgqrs_fields(self):
        attributes = {"workflow_id": 1, "step_id": "x", "pgqrs_failure": 3, "__class__": "int", "__odd__": 1}
        error = load_document(attributes=attributes | {"__dict__": {"smuggled": 1}})
        assert (error.workflow_id, error.step_id, str(error)) == (7, "fetch", "m")
        assert not vars(error).keys() & {"__class__", "__dict__", "__odd__", "smuggled"}

    def test_class_cache_is_bounded(self):
        assert failures.replay._combined.cache_info().maxsize is not None


# --- rows that were written by hand, and errors that are large ---


@pytest.mark.parametrize(
    "name", ["pgqrs_original", "pgqrs_failure", "split", "derive", "subgroup", "add_note", "with_traceback"]
)
def test_recorded_attribute_does_not_replace_a_method(name):
    group = {"errors": [{"type": "ValueError", "message": "m", "mro": ["builtins:ValueError"]}]}
    for document in ({}, {"mro": ["builtins:ExceptionGroup"]} | group):
        error = load_document(attributes={name: "x", "kept": 1}, **document)
        assert is_terminal(error)
        assert name not in vars(error) or name == "pgqrs_failure"
        assert error.kept == 1
        error.add_note("n")
        assert error.with_traceback(None) is error
        if document:
            with pytest.raises(ExceptionGroup):
                try:
                    raise error
                except* KeyError:
                    pass


@pytest.mark.parametrize(
    "attributes",
    [
        {"text": ["x"]}, {"msg": 1}, {"filename": {}}, {"lineno": "1"}, {"offset": [1]}, {"end_lineno": 1.5},
        {"text": "x", "offset": 1, "lineno": 1, "end_offset": 10**12, "end_lineno": 1},
    ],
)  # fmt: skip
def test_handwritten_syntax_error_can_be_formatted(attributes):
    error = load_document(mro=["builtins:SyntaxError"], attributes={"msg": "bad", "lineno": 3} | attributes)
    assert isinstance(error, SyntaxError)
    assert len("".join(traceback.format_exception(raised(error)))) < 10_000


async def test_stop_iteration_leaves_a_coroutine_unchanged():
    error = replay(StopIteration(5))
    assert (str(error), repr(error), error.args) == ("5", "StepFailedError[StopIteration]('5')", (5,))

    async def result():
        raise error

    with pytest.raises(StepFailedError):
        await result()


def nested(leaves, depth):
    error = ValueError("x")
    groups = []
    for _ in range(leaves):
        inner = error
        for _ in range(depth):
            inner = ExceptionGroup("g", [inner])
        groups.append(inner)
    return ExceptionGroup("all", groups)


def wide(width, depth):
    error = ValueError("x" * 1000)
    for _ in range(depth):
        error = ExceptionGroup("g" * 1000, [error] * width)
    return error


@pytest.mark.parametrize(
    "make",
    [
        partial(nested, 1024, 45), partial(wide, 300, 2), partial(wide, 10, 4),
        lambda: ExceptionGroup("g", [ValueError("x" * 100_000)] * 500),
    ],
    ids=["deep", "wide", "tree", "long"],
)  # fmt: skip
def test_large_group_is_recorded_in_bounded_size_and_time(make):
    group = make()
    began = time.process_time()
    text = dump_error(group, terminal=True)
    assert time.process_time() - began < 1
    assert len(text) < 1.2 * failures.record._ROOM
    again = load(text)
    assert isinstance(again, ExceptionGroup)
    assert again.exceptions


def test_many_attributes_are_read_up_to_a_limit():
    asked = []

    class Asked:
        def __repr__(self):
            asked.append(1)
            return "asked"

    class Many(Exception):
        def __str__(self):
            return "many"

    error = Many(*[Asked()] * 300_000)
    for number in range(300_000):
        setattr(error, f"a{number}", object())
    began = time.process_time()
    assert len(dump_error(error, terminal=True)) < failures.record._ROOM
    assert time.process_time() - began < 1
    assert len(asked) <= 10_000
