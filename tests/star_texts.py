# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files for tests, and a reader of them that shares nothing with ours: slow, a character at a time."""

from __future__ import annotations


def words(line):
    """Values of a line, without quotes; a comment ends it."""
    found, at, line = [], 0, line.rstrip("\r\n")
    while at < len(line):
        if line[at] in " \t\v\f\r":
            at += 1
        elif line[at] == "#":
            break
        elif line[at] in "'\"":
            end = at + 1
            while line[end] != line[at] or (end + 1 < len(line) and line[end + 1] not in " \t\r"):
                end += 1
            found.append(line[at + 1 : end])
            at = end + 1
        else:
            end = at
            while end < len(line) and line[end] not in " \t\v\f\r":
                end += 1
            found.append(line[at:end])
            at = end
    return found


def read_star(path):
    """Rows, as dictionaries, of the tables of a file, by the names of their blocks."""
    tables, labels, in_loop, block = {}, [], False, None
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            found = words(line)
            if found and found[0].startswith("data_") and len(found) == 1:
                block, labels, in_loop = found[0][5:], [], False
                tables[block] = []
            elif found == ["loop_"]:
                in_loop = True
            elif found and found[0].startswith("_") and in_loop and not tables[block]:
                labels.append(found[0][1:])
            elif found and found[0].startswith("_") and not in_loop:
                tables[block] = tables[block] or [{}]
                tables[block][0][found[0][1:]] = found[1]
            elif found and in_loop:
                assert len(found) == len(labels), (found, labels)
                tables[block].append(dict(zip(labels, found)))
            elif not found and not line.strip() and in_loop and tables[block]:
                in_loop, labels = False, []
    return tables


def loop(block, labels, rows, end=" \n"):
    """A loop, as RELION writes one; rows are texts, or values to be put between blanks."""
    head = "".join(f"_{label} #{number} \n" for number, label in enumerate(labels, start=1))
    lines = "".join(row if isinstance(row, str) else " ".join(map(str, row)) + " \n" for row in rows)
    return f"\n# version 30001\n\ndata_{block}\n\nloop_ \n{head}{lines}{end}"
