# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files of every sort: what is found in them, and that all that is not changed stays to the byte."""

import multiprocessing
import os
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from downsample_plugin.errors import DataError
from downsample_plugin.files import star
from downsample_plugin.files.star import (
    StarFile,
    check_labels,
    find_block,
    next_table,
    read_again,
    read_blocks,
    read_pairs,
    rows_end,
)
from downsample_plugin.files.star_rows import RowError, find_rows, text_of, value_of, values_of_line

from .star_texts import loop, read_star, words

quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def tables(path, strict=()):
    """All tables of a file."""
    with StarFile(path) as file:
        found, offset, block = [], 0, ""
        while table := next_table(file, offset, block, strict):
            found.append(table)
            offset, block = rows_end(file, table), table.block
        return found


def write(text, name="in.star"):
    with open(name, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return name


def read(text):
    """Rows of the first loop of a text."""
    path = write(text)
    with StarFile(path) as file:
        table = next_table(file)
        check_labels(file, table)
        return [
            list(row)
            for _, rows in read_blocks(file, table)
            for row in zip(*map(rows.values, range(len(table.labels))))
        ]


# ---- rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, values",
    [
        ("a b\n", ["a", "b"]),
        ("  a\t b \r\n", ["a", "b"]),
        ('"group 1" b', ["group 1", "b"]),
        ("'group 1' \"\"\n", ["group 1", ""]),
        ('"1@with blanks/x.mrcs" "it\'s"\n', ["1@with blanks/x.mrcs", "it's"]),
        ("'say \"x\" twice' b\n", ['say "x" twice', "b"]),
        ("d'x 5\"\n", ["d'x", '5"']),
        ('"a"b" c\n', ['a"b', "c"]),
        ('"a\a" b" c\n', ['a" b', "c"]),
        ("a b # comment 'of\n", ["a", "b"]),
        ("a#1 b# \n", ["a#1", "b#"]),
        (";a b;\n", [";a", "b;"]),
        ("_a data_b\n", ["_a", "data_b"]),
        ("a\u00a0b \u3000\n", ["a\u00a0b", "\u3000"]),  # white space elsewhere, not in STAR
        ("a\x1cb \x85\n", ["a\x1cb", "\x85"]),
        ("a\udcff \udc80\n", ["a\udcff", "\udc80"]),
    ],
)
def test_values_of_a_row(line, values):
    data = os.fsencode(line)
    rows, end = find_rows(data, 2)
    assert end == len(data)
    assert [rows.values(0)[0], rows.values(1)[0]] == values
    places = values_of_line(data, 0, len(data))
    assert [value_of(data[start:stop].decode("latin-1")) for start, stop in places] == values
    assert rows.replaced({}) == data


@pytest.mark.parametrize("line", ["'a b\n", '"a" "b\n', "a 'b\"\n", '"\n'])
def test_a_quote_that_is_not_closed(line):
    with pytest.raises(RowError, match="a quote is not closed"):
        find_rows(line.encode(), 2)


@pytest.mark.parametrize("behind", ["\n'x y\n", "data_y\n'z\n", "loop_\n_b\n'z\n"])
def test_quotes_behind_the_rows_may_be_anything(behind):
    rows, end = find_rows(b"1 2\n" + behind.encode(), 2)
    assert (rows.values(1), end) == (["2"], 4)


@pytest.mark.parametrize(
    "value, text",
    [
        ("a", "a"),
        ("a b", '"a b"'),
        ("", '""'),
        ("'a", '"\'a"'),
        ("#a", '"#a"'),
        ('a" b', "'a\" b'"),
        ("d'x", "d'x"),
        ("é\udcff", "Ã©ÿ"),
    ],
)
def test_texts_of_values(value, text):
    assert text_of(value) == text
    assert value_of(text) == value
    (rows, _) = find_rows(text.encode("latin-1") + b" x\n", 2)
    assert rows.values(0) == [value]


@pytest.mark.parametrize("value", ["a\nb", "a\tb", "a  b", "a\rb", "a\" b' c", "\a"])
def test_values_that_no_text_stands_for(value):
    with pytest.raises(DataError, match=r"expected none|cannot hold"):
        text_of(value)


letters = st.characters(codec="utf-8", exclude_characters=" \t\r\n\v\f\a", exclude_categories=["Cs"])
plain = st.text(letters, min_size=1, max_size=6).filter(lambda text: text[0] not in "\"'#")
quoted = st.tuples(st.sampled_from("\"'"), st.text(st.sampled_from("ab# é1"), max_size=6)).map(
    lambda pair: pair[0] + pair[1] + pair[0]
)
cells = st.one_of(plain, plain, st.sampled_from(["1.500000", "000001@a.mrcs"]), quoted)
blanks = st.sampled_from([" ", "  ", "\t", "     "])


@st.composite
def texts(draw):
    """Rows of a loop: (text, columns, values, the comments between them)."""
    columns = draw(st.integers(1, 5))
    line_end = draw(st.sampled_from(["\n", "\r\n"]))
    comments, values, out = draw(st.booleans()), [], []
    for _ in range(draw(st.integers(1, 8))):
        row = draw(st.lists(cells, min_size=columns, max_size=columns))
        if columns == 1 and not draw(st.booleans()):
            row = ["data_x"]
        lead, tail = draw(st.sampled_from(["", " ", "\t "])), draw(st.sampled_from(["", " ", " # c 'd"]))
        between = [draw(blanks) for _ in row[1:]]
        out.append(lead + "".join(a + b for a, b in zip(row, [*between, ""])) + tail + line_end)
        values.append([value_of(os.fsencode(cell).decode("latin-1")) for cell in row])
        if comments and draw(st.booleans()):
            out.append(draw(st.sampled_from(["# between", "  #"])) + line_end)
    text = "".join(out)
    if draw(st.booleans()) and not text.rstrip("\r\n").endswith("#"):
        text = text[: -len(line_end)]
    return text.encode(), columns, values


@quick
@given(texts(), st.data())
def test_random_rows(case, data):
    """They are found; without a change they stay to the byte; what is changed, added and dropped is as asked."""
    text, columns, values = case
    rows, end = find_rows(text, columns)
    assert end == len(text)
    assert [list(row) for row in zip(*map(rows.values, range(columns)))] == values
    assert rows.replaced({}) == text

    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    changed = data.draw(st.sets(st.integers(0, columns - 1)))
    new = {column: [f"new{column}_{row}" for row in np.flatnonzero(kept)] for column in changed}
    added = [[f"more{row}" for row in np.flatnonzero(kept)]]
    result = rows.replaced(new, added, kept)
    again, end = find_rows(result, columns + 1)
    assert end == len(result)
    expected = [
        [f"new{i}_{row}" if i in changed else value for i, value in enumerate(values[row])] + [f"more{row}"]
        for row in np.flatnonzero(kept)
    ]
    assert [list(row) for row in zip(*map(again.values, range(columns + 1)))] == expected
    for column in set(range(columns)) - changed:
        assert again.raw(column) == rows.raw(column, kept)
    assert [words(line) for line in result.decode().split("\n") if words(line)] == expected, (
        "another reader says so too"
    )
    comments = [line for line in text.split(b"\n") if line.strip().startswith(b"#")]
    assert [line for line in result.split(b"\n") if line.strip().startswith(b"#")] == comments


@quick
@given(texts())
def test_rows_found_at_once_and_one_by_one_are_the_same(case):
    text, columns, _ = case
    rows, _ = find_rows(text, columns)
    for line, places in zip(rows.lines.tolist(), rows.places.tolist()):
        assert [list(place) for place in values_of_line(text, *line)] == places


@quick
@given(texts(), st.integers(0, 60))
def test_rows_do_not_depend_on_how_much_is_read_at_once(here, case, more):
    text, columns, values = case
    assume(not text.lstrip().startswith((b"_", b";")))  # that would be a label, or a comment
    head = f"data_\n\nloop_\n{''.join(f'_l{i}' + chr(10) for i in range(columns))}".encode()
    path = write(head + text)
    with pytest.MonkeyPatch.context() as patch, StarFile(path) as file:
        patch.setattr(star, "BYTES_AT_ONCE", max(map(len, (head + text).split(b"\n"))) + 1 + more)
        table = next_table(file)
        blocks = list(read_blocks(file, table))
        assert [list(row) for _, rows in blocks for row in zip(*map(rows.values, range(columns)))] == values
        counts = [block.rows for block, _ in blocks]
        assert [block.first for block, _ in blocks] == np.cumsum([1, *counts])[:-1].tolist()
        assert sum(counts) == len(values)
        assert b"".join(file.read(block.offset, block.length) for block, _ in blocks) == text
        for block, rows in blocks:
            assert read_again(path, file.descriptor, table, block).text == rows.text


# ---- tables ------------------------------------------------------------------------------------------------------


def test_tables_of_all_sorts(here):
    text = (
        "\n# version 30001\n\ndata_general\n\n_rlnOne 1\n_rlnTwo  'two words' # why\n\nloop_\n_a\n_b #2\n1 2\n\n"
        "data_empty\n\nloop_\n_c #1\n\ndata_\nloop_ \n\n# here\n; and here\n_d #1 \n_e\n\n# before the rows\n1 2\n3 4\n"
        "data_last\n\nloop_\n_only #1\ndata_1.mrcs\nloop_\n\n_x 1\n"
    )
    found = tables(write(text))
    assert [(t.block, t.labels, t.is_loop) for t in found] == [
        ("general", ("rlnOne", "rlnTwo"), False),
        ("general", ("a", "b"), True),
        ("empty", ("c",), True),
        ("", ("d", "e"), True),
        ("last", ("only",), True),
        ("last", ("x",), False),
    ]
    with StarFile("in.star") as file:
        assert read_pairs(file, found[0]).values(1) == ["two words"]
        rows = [[rows.values(0) for _, rows in read_blocks(file, table)] for table in found[1:5]]
    assert rows == [[["1"]], [], [["1", "3"]], [["data_1.mrcs", "loop_"]]]


@pytest.mark.parametrize(
    "change", [lambda text: "\ufeff" + text[text.index("data_") :], lambda text: text.replace("\n", "\r\n")]
)
def test_byte_order_marks_and_windows_line_ends(here, change):
    text = change(loop("x", ["a", "b"], [[1, '"2 3"'], [4, 5]]))
    assert read(text) == [["1", "2 3"], ["4", "5"]]
    assert [table.block for table in tables("in.star")] == ["x"]


def test_labels_and_rows_at_the_end_of_the_file(here):
    assert read("data_\nloop_\n_a\n_b\n1 2\n3 4") == [["1", "2"], ["3", "4"]]
    (table,) = tables(write("data_\nloop_\n_a\n_b"))
    assert table.end == table.start == 17
    assert table.more_labels(["c"]) == b"\n_c #3"
    assert tables(write("")) == tables(write("no star\nfile")) == []


def test_more_labels_look_like_those_before(here):
    for tail in (" \n", "\n", "\r\n"):
        (table,) = tables(write(f"data_{tail}loop_{tail}_a #1{tail}_b #2{tail}1 2{tail}"))
        assert table.more_labels(["c", "d"]) == f"_c #3{tail}_d #4{tail}".encode()


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            "_a\n_b\n1 2\n1\n",
            "in.star, line 6: 1 value, expected 2, one for each label of the loop; write the file again",
        ),
        ("_a\n_b\n1 2\n1 2 3\n", "line 6: 3 values, expected 2"),
        ("_a\n_b\n1 2\n'1 2'\n", "line 6: 1 value, expected 2"),
        ("_a\n_b\n1 2\n# c\n1 '2\n", "line 7: a quote is not closed: got '2, expected a closing quote"),
        ("_a\n_b\n_a\n1 2 3\n", "line 5: _a appears twice in the table, expected once"),
    ],
)
def test_loops_with_something_wrong(here, text, sentence):
    with pytest.raises(DataError) as caught:
        read("data_\nloop_\n" + text)
    assert sentence in str(caught.value)


def test_pairs_with_something_wrong(here):
    (table,) = tables(write("data_x\n\n_a 1\n_b\n"))
    with StarFile("in.star") as file, pytest.raises(DataError, match=r"line 4: a label has no value, expected one"):
        read_pairs(file, table)


def test_rows_behind_an_empty_line(here):
    path = write(loop("x", ["a", "b"], [[1, 2]], end="\n3 4\n") + loop("y", ["c"], [[5]], end="\nanything goes\n"))
    with pytest.raises(DataError, match=r"line 11: '3 4' is outside a loop, expected rows to follow their loop"):
        tables(path, strict=["x"])
    assert [table.block for table in tables(path, strict=["z"])] == ["x", "y"]


def test_lines_that_are_too_long(here, monkeypatch):
    monkeypatch.setattr(star, "BYTES_AT_ONCE", 64)
    for text in ("data_\nloop_\n_a\n" + "x" * 200 + "\n", "data_\n" + "x" * 200, "data_\nloop_\n_a\nx\n" + "x" * 200):
        with pytest.raises(DataError, match=r"line \d: it is longer than \d MB"):
            read(text)


def test_a_block_further_down(here, monkeypatch):
    text = "data_optics_2\n x data_optics\n" + "y" * 99 + "data_optics\n" + "z" * 99 + "\n \tdata_optics \r\n_a 1\n"
    with StarFile(write(text)) as file:
        for size in (13, 50, 1 << 20):
            monkeypatch.setattr(star, "BYTES_AT_ONCE", size)
            assert find_block(file, "optics", 0) == text.index(" \tdata_optics")
        assert find_block(file, "optics", text.index("_a 1")) is None


# ---- files -------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(here):
    os.mkfifo("pipe")
    for path in ("nowhere", "pipe", ".", "a\0b"):
        with pytest.raises(DataError, match=r"it cannot be read \(.*\), expected a STAR file"):
            StarFile(path)


def test_a_file_that_is_replaced_plays_no_part(here):
    path = write(loop("x", ["a"], [[1], [2]]))
    with StarFile(path) as file:
        table = next_table(file)
        ((block, _),) = read_blocks(file, table)
        write(loop("x", ["a"], [[3], [4]]), "new.star")
        os.replace("new.star", path)
        file.check_unchanged()
        assert read_again(path, file.descriptor, table, block).values(0) == ["1", "2"]
        shutil.move(path, "elsewhere.star")
        file.check_unchanged()


@pytest.mark.parametrize("old_time", [False, True])
def test_a_file_that_is_written_to(here, old_time):
    path = write(loop("x", ["a"], [[1], [2]]))
    before = os.stat(path)
    with StarFile(path) as file:
        table = next_table(file)
        ((block, _),) = read_blocks(file, table)
        with open(path, "r+b") as other:
            other.seek(block.offset)
            other.write(b"7")
        if old_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DataError, match=r"in.star: it was changed during the run"):
            file.check_unchanged()
        with pytest.raises(DataError, match=r"in.star: it was changed during the run"):
            read_again(path, file.descriptor, table, block)


def _read_elsewhere(pickled):
    path, descriptor, table, block = pickle.loads(pickled)
    return read_again(path, descriptor, table, block).values(0)


def test_other_processes_read_blocks(here, monkeypatch):
    monkeypatch.setattr(star, "BYTES_AT_ONCE", 64)
    path = write(loop("x", ["a"], [[i] for i in range(40)]))
    with StarFile(path) as file:
        table = next_table(file)
        blocks = [block for block, _ in read_blocks(file, table)]
        assert len(blocks) > 1
        jobs = [pickle.dumps((path, file.descriptor, table, block)) for block in blocks]
        assert max(map(len, jobs)) < 500
        os.remove(path)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.map(_read_elsewhere, jobs)
    assert [value for values in found for value in values] == [str(i) for i in range(40)]


def test_memory_does_not_grow_with_the_file(here, monkeypatch):
    monkeypatch.setattr(star, "BYTES_AT_ONCE", 1 << 16)
    row = "  1.500000" * 60 + "\n"
    path = write(loop("x", [f"l{i}" for i in range(60)], [row] * 10000))  # 6 MB
    with StarFile(path) as file:
        table = next_table(file)
        tracemalloc.start()
        for _, rows in read_blocks(file, table):
            rows.values(1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3 << 20


def test_the_other_reader(here):
    write("data_a\n\n_x 'y z'\n\ndata_b\n\nloop_\n_u #1\n_v\n1 \"2 3\" # c\n\n", "in.star")
    assert read_star("in.star") == {"a": [{"x": "y z"}], "b": [{"u": "1", "v": "2 3"}]}
