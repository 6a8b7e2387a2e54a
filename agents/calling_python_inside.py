"""What CallingPython runs inside the sandbox, as a text for whatever Python is there; and `plain`, for both sides.

Rules: the standard library only, and nothing of ours. It is honest, and the code that it runs need not be: whatever
comes out of here is checked outside.
"""

from __future__ import annotations

import ast
import io
import json
import os
import select
import sys
import threading
import traceback
import types
from typing import Any

__all__ = ["DEEPEST", "LONGEST", "LONGEST_TEXT", "plain"]

DEEPEST = 64
"""How deep a value may be nested."""
LONGEST = 2**20
"""Characters of a value as JSON."""
LONGEST_TEXT = 2**18
"""Bytes of what one piece of code prints, and characters of a last expression as a text."""
CODE = "<code>"


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """The value as JSON gives it back: tuples are lists. Raises TypeError, which names what is not JSON; ValueError."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} is no number of JSON")
        return value
    if depth == 0:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        return [plain(each, depth - 1) for each in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a dict with a key of type {type(key).__name__} is not JSON; keys are texts")
        return {key: plain(each, depth - 1) for key, each in value.items()}
    raise TypeError(f"a value of type {type(value).__name__} is not JSON; give texts, numbers, lists, dicts")


class CallError(RuntimeError):
    """A function of the application could not be called, or failed."""


class Final(BaseException):
    """Ends the code with what its final function was called with, as JSON."""


class Outside:
    """The application, by one JSON object a line."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self.questions = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="surrogateescape")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
        self.home = os.getpid()
        self.step: str | None = None
        self.turn = threading.Lock()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message, of this step unless it says of which."""
        self.answers.write(json.dumps({"step": self.step, **message}, ensure_ascii=False) + "\n")
        self.answers.flush()

    def finish(self, answer: dict[str, Any]) -> None:
        """Answers the step, after the call that a thread is in the middle of; no other one begins."""
        answer["step"], self.step = self.step, None
        with self.turn:
            self.tell(answer)

    def function(self, name: str) -> Any:
        """A function that is called outside."""

        def called(*args: Any, **kwargs: Any) -> Any:
            message = {"call": name, "args": plain(args), "kwargs": plain(kwargs)}
            check_length(name, message)
            with self.turn:
                step = self.step
                if step is None or os.getpid() != self.home:
                    raise CallError(f"{name}: only while a step runs, and by the interpreter itself")
                self.tell({"step": step, **message})
                answer = json.loads(self.questions.readline())
            if "error" in answer:
                raise CallError(answer["error"])
            return answer["value"]

        called.__name__ = called.__qualname__ = name
        return called


def final_function(name: str) -> Any:
    """A function that ends the step."""

    def called(*args: Any, **kwargs: Any) -> Any:
        message = {"final": name, "args": plain(args), "kwargs": plain(kwargs)}
        check_length(name, message)
        raise Final(message)

    called.__name__ = called.__qualname__ = name
    return called


def check_length(name: str, message: dict[str, Any]) -> None:
    """Raises ValueError."""
    length = len(json.dumps(message, ensure_ascii=False))
    if length > LONGEST:
        raise ValueError(f"{name}: its arguments have {length} characters as JSON; at most {LONGEST} leave the sandbox")


class Printed:
    """What this process and those that it starts print, in its order: so much of it, and the rest is dropped."""

    def __init__(self) -> None:
        self.end, way_in = os.pipe()
        for number in (1, 2):
            os.dup2(way_in, number)
        os.close(way_in)
        self.home = os.getpid()
        self.turn = threading.Lock()
        self.kept = bytearray()
        threading.Thread(target=self.collect, daemon=True).start()

    def collect(self) -> None:
        """Reads all the time, or who prints would stand still."""
        while True:
            select.select([self.end], [], [])
            with self.turn:
                self.read()

    def read(self) -> None:
        """What has come; with `turn` held."""
        for _ in range(16):  # who prints without end is not waited for
            if not select.select([self.end], [], [], 0)[0]:
                break
            chunk = os.read(self.end, 65536)
            self.kept += chunk[: max(0, LONGEST_TEXT - len(self.kept))]

    def begin(self) -> None:
        """New streams; the code may have done anything to those that it had. They keep nothing back."""
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", "replace", write_through=True)
            for number in (1, 2)
        )

    def taken(self) -> str:
        """What was printed since the last time."""
        if os.getpid() != self.home:  # a fork that came to the code's end; its lock may be held for ever
            os._exit(0)
        with self.turn:
            self.read()
            found = self.kept.decode("utf-8", "replace")
            self.kept.clear()
        return found


def shown(value: Any) -> dict[str, Any]:
    """A last expression: as JSON where it is that to the letter, else as a text."""
    try:
        text = json.dumps(plain(value), ensure_ascii=False)
        if len(text) <= LONGEST and json.loads(text) == value:
            return {"value": plain(value)}
    except (TypeError, ValueError, RecursionError):
        pass
    return {"value": str(value)[:LONGEST_TEXT]}


def carried_out(code: str, space: dict[str, Any]) -> dict[str, Any]:
    """Runs it; the last expression is its value."""
    tree = ast.parse(code, CODE)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, CODE, "exec"), space)  # noqa: S102
    if not isinstance(last, ast.Expr):
        return {"value": None}
    return shown(eval(compile(ast.Expression(last.value), CODE, "eval"), space))  # noqa: S307


def failure(error: BaseException) -> dict[str, Any]:
    """An exception in words, and the line of this piece of code that it came through."""
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if isinstance(error, SystemExit):
        text = f"SystemExit: {error.code}"
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == CODE]
    return {"error": text[:20_000], "line": lines[0] if lines else None}


def answer_to(code: str, space: dict[str, Any], printed: Printed) -> dict[str, Any]:
    """What became of one piece of code."""
    printed.begin()
    try:
        found = carried_out(code, space)
    except Final as final:
        found = final.args[0]
    except BaseException as error:
        found = failure(error)
    return {"output": printed.taken(), **found}


def main() -> None:
    """One step after the other, until there is no question any more."""
    outside, printed = Outside(), Printed()
    module = types.ModuleType("__main__")  # the code's own: what it defines is found there, by pickle for example
    sys.modules["__main__"] = module
    space = module.__dict__
    for line in outside.questions:
        question = json.loads(line)
        space.update(question["variables"])
        space.update({name: outside.function(name) for name in question["functions"]})
        space.update({name: final_function(name) for name in question["final"]})
        outside.step = question["step"]
        answer = answer_to(question["code"], space, printed)
        outside.finish(answer)


if __name__ == "__main__":
    main()
