"""Rows of data files for scenarios: who gets which, when they run out, and what is wrong with a file."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perfkit.drive.session import DataFiles
from perfkit.drive.session.data import read_rows
from perfkit.drive.spread import execute
from perfkit.drive.workloads import complete
from perfkit.errors import BadInput
from tests.fault_server import fault_server


def file_of(folder: Path, rows: int) -> str:
    """A CSV file with as many numbered rows; its name."""
    (folder / "users.csv").write_text("n,name\n" + "".join(f"{i},user {i}\n" for i in range(rows)))
    return "users.csv"


def numbers(files: DataFiles, name: str, places: range, **how: Any) -> list[int]:
    """Which rows users or steps of these numbers get."""
    how = {"per": "step", "at_end": "error"} | how
    return [int(files.take(name, user=place, step=place, **how).row["n"]) for place in places]


@pytest.mark.parametrize("count", [1, 3])
def test_no_row_is_used_twice(tmp_path: Path, count: int) -> None:
    """Measured steps and those of the warm-up use every row of the workers once, in a shuffled order."""
    name = file_of(tmp_path, 300)
    used = []
    for index in range(count):
        files = DataFiles(tmp_path, 1, index, count)
        used += numbers(files, name, range(-1 - index, -60 - index, -count))  # as Drive numbers its steps
        used += numbers(files, name, range(index, 240, count))
    assert max(Counter(used).values()) == 1
    assert used != sorted(used)


def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    """The same seed gives a step the same row, in every run and after any warm-up; another seed does not."""
    name = file_of(tmp_path, 50)
    first, again, other = (DataFiles(tmp_path, seed) for seed in (1, 1, 2))
    numbers(again, name, range(-1, -9, -1))
    assert numbers(first, name, range(20)) == numbers(again, name, range(20))
    assert numbers(DataFiles(tmp_path, 1), name, range(20)) != numbers(other, name, range(20))


def test_a_step_has_one_row_and_a_user_keeps_one(tmp_path: Path) -> None:
    """Who asks again gets the same row; users of different workers have different ones."""
    name = file_of(tmp_path, 10)
    files = DataFiles(tmp_path, 1, 1, 2)
    assert numbers(files, name, range(1, 2)) == numbers(files, name, range(1, 2))
    users = [numbers(DataFiles(tmp_path, 1, i, 2), name, range(i, 10, 2), per="user") for i in (0, 1)]
    assert sorted(users[0] + users[1]) == list(range(10))


@pytest.mark.parametrize(("warmups", "measured"), [(0, 10), (4, 6), (10, 0)])
def test_running_out_is_an_error_or_a_cycle(tmp_path: Path, warmups: int, measured: int) -> None:
    """The step after the last row ends by BadInput that says what to do, whatever part used the rows; a cycle
    begins again."""
    name = file_of(tmp_path, 10)
    files = DataFiles(tmp_path, 1)
    numbers(files, name, range(-1, -1 - warmups, -1))
    numbers(files, name, range(measured))
    with pytest.raises(
        BadInput, match=r'users.csv: all 10 rows are used, one for each step; .*at_end="cycle"'
    ):
        numbers(files, name, range(measured, measured + 1))
    assert numbers(files, name, range(10, 20), at_end="cycle") == numbers(
        DataFiles(tmp_path, 1), name, range(10)
    )
    with pytest.raises(BadInput, match="one for each user"):
        numbers(files, name, range(10, 11), per="user")
    few = DataFiles(tmp_path, 1, 12, 13)
    assert len(numbers(few, name, range(12, 90, 13), at_end="cycle")) == 6
    with pytest.raises(BadInput, match="all 0 rows of this worker, 1 of 13, are used"):
        numbers(few, name, range(12, 13))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "n,n\n1,2\n", "column 'n' is there twice"),
        ("a.csv", "n,m\n1,2\n1\n", "a.csv, line 3: 1 fields, where the header has 2"),
        ("a.csv", "n\n", "it has no rows"),
        ("a.csv", 'n\n"a\n', "line 2: unexpected end of data"),
        ("a.jsonl", '{"n": 1}\n[1]\n', "a.jsonl, line 2: not a JSON object"),
        ("a.jsonl", "{n}\n", "a.jsonl, line 1: not a JSON object"),
        ("a.txt", "x", "the name must end in .csv, .jsonl, .ndjson"),
        ("a.csv", None, "No such file or directory; did you mean b.csv?"),
        ("users.csv", None, "No such file or directory; there: b.csv"),
    ],
)
def test_broken_files_are_bad_input(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    """One line says the file, the line and what is wrong, each time anew."""
    if text is not None:
        (tmp_path / name).write_text(text)
    (tmp_path / "b.csv").write_text("n\n1\n")
    files = DataFiles(tmp_path, 1)
    for _ in range(2):
        with pytest.raises(BadInput) as caught:
            files.take(name, "user", "error", 0, 0)
        assert words in str(caught.value)
    with pytest.raises(BadInput, match="'twice' is not one of user and step"):
        files.take(name, "twice", "error", 0, 0)  # type: ignore[arg-type]


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    """The nearest and all of them; still a KeyError, and the row a dict, which goes out as JSON."""
    (tmp_path / "a.csv").write_text("name,password\nada,x\n")
    (tmp_path / "a.jsonl").write_text('{"name": "ada", "password": "x"}\n')
    for name in ("a.csv", "a.jsonl"):
        (row,) = read_rows(tmp_path / name)
        with pytest.raises(KeyError, match="username") as caught:
            row["username"]
        assert str(caught.value) == "no column 'username'; known: name, password"
        with pytest.raises(BadInput, match=r"did you mean 'password'\?"):
            row["pasword"]
        assert msgspec.json.decode(msgspec.json.encode(row)) == {"name": "ada", "password": "x"}
        assert row.get("username") is None


def test_a_file_with_other_delimiters(tmp_path: Path) -> None:
    """A CSV with semicolons or tabs has one column: what is asked of it says what separates columns here."""
    for delimiter in (";", "\t", "|"):
        (tmp_path / "u.csv").write_text(f"user{delimiter}password\na{delimiter}b\n")
        (row,) = read_rows(tmp_path / "u.csv")
        with pytest.raises(KeyError) as caught:
            row["user"]
        assert f"columns are separated by commas, not {delimiter!r}" in str(caught.value)


def test_files_hold_what_csv_and_json_can(tmp_path: Path) -> None:
    """Quotes, line breaks, a byte order mark and values of every type are read as they are."""
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfn,m\r\n"a ""b""\nc",2\r\n\r\n')
    assert read_rows(tmp_path / "a.csv") == [{"n": 'a "b"\nc', "m": "2"}]
    rows = [{"n": 1, "tags": ["a"], "x": None}, {"n": "grün"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert read_rows(tmp_path / "a.jsonl") == rows


def test_a_run_hands_out_rows_and_hides_their_secrets(tmp_path: Path) -> None:
    """Two real workers: each step its own row, each user its own; setup has none; a password that the server
    echoes is not recorded."""
    file_of(tmp_path, 40)
    secrets = [f"sesame-{random.Random(i).randrange(10**9)}-opens" for i in range(4)]
    (tmp_path / "logins.jsonl").write_text("\n".join(json.dumps({"password": one}) for one in secrets))
    (tmp_path / "mine.py").write_text(
        "from perfkit.errors import BadInput\n"
        "async def setup(session, params):\n"
        "    try: session.data('users.csv')\n"
        "    except BadInput as error: assert 'is for steps' in str(error)\n"
        "    else: raise AssertionError\n"
        "async def step(session, state, rng):\n"
        "    row, login = session.data('users.csv', per='step'), session.data('logins.jsonl')\n"
        "    await session.get(f\"/ok/{row['n']}\", name=f\"row-{row['n']}\")\n"
        "    await session.post(f\"/reflect/{login['password']}\", json=login, name='login',\n"
        "        headers={'x-echo': login['password']})\n"
        "    await session.get(f\"/ok/{login['password']}\")\n"
    )
    given = {"scenario": str(tmp_path / "mine.py"), "users": {"count": 4, "iterations": 40}, "processes": 2}
    with fault_server() as server:
        done = execute(*complete(given | {"target": {"url": server.url}}, "test"), data_dir=tmp_path)
    rows = done.table().to_pandas()
    assert not done.meta.step_errors
    assert set(rows["operation"]) == {"login", "GET /ok/***", *(f"row-{i}" for i in range(40))}
    texts = rows["error_text"].dropna()
    assert len(texts) == 40
    assert texts.str.contains("***", regex=False).all()
    assert not any(secret in text for text in texts for secret in secrets)
