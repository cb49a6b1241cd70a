# SPDX-License-Identifier: GPL-3.0-or-later
"""What all protocols tell their users in the same way."""

from __future__ import annotations

import contextlib
import sqlite3

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params

from ..errors import DownsampleError, in_a_sentence


class PlainLabel:
    """A protocol or viewer that goes by its own label: the package's would fill the tree and run boxes."""

    @classmethod
    def getClassLabel(cls, prependPackageName=True):
        """Scipion's hook: what the tree, run boxes, forms and the search call it."""
        return super().getClassLabel(prependPackageName=False)  # type: ignore[misc]  # of protocols and viewers


@contextlib.contextmanager
def toldToTheUser():
    """Errors become sentences for the user: Scipion shows them as they are, without a traceback."""
    try:
        yield
    except DownsampleError as error:
        raise PyworkflowException(str(error)) from error
    except OSError as error:
        raise PyworkflowException(in_a_sentence(error)) from error
    except sqlite3.Error as error:
        raise PyworkflowException(
            f"The file of a set (.sqlite): got '{error}' from SQLite, expected one that can be read and written; check "
            "the input sets and the disk, then continue the run"
        ) from error


def emptyProblems(protocol):
    """Sentences on parameters that have no value, or no choice of their list, where the form shows and wants one."""
    problems = []
    for name, param in protocol.getDefinition().iterParams():
        value = getattr(protocol, name).get()
        if not isinstance(param, (params.IntParam, params.FloatParam, params.BooleanParam)):
            continue
        if param.getDefault() is None:  # empty at first, so it may stay empty
            continue
        if not protocol.evalParamCondition(name):
            continue
        if isinstance(param, params.EnumParam) and value not in range(len(param.choices)):
            choices = ", ".join(f"{i} ({choice})" for i, choice in enumerate(param.choices))
            problems.append(f"{param.getLabel()}: got {value}, expected one of {choices}; choose one.")
        elif value is None:
            problems.append(f"{param.getLabel()}: it is empty, expected a value; {param.getDefault()} is usual.")
    return problems
