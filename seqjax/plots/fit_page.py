"""The report of fits as one self-contained HTML page: result, figure, doubts, checklist, rows used and left out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from seqjax import __version__
from seqjax.host.wording import readable
from seqjax.laws.fitting import Fit
from seqjax.laws.law import LETTERS
from seqjax.laws.reference import greek
from seqjax.laws.summary import answers, constant_rows, remarks, sentence
from seqjax.plots.fits import draw_fits
from seqjax.plots.labels import named
from seqjax.plots.page import picture, rendered


def fit_page(fits: Mapping[str, Fit], title: str, command: str, by: str | None = None) -> str:
    """The page, as HTML.

    Args:
        fits: by group; one without groups has the group "".
        command: what was typed.
        by: the column of the groups.
    """
    law = next(iter(fits.values())).law
    template = resources.files("seqjax.plots").joinpath("templates/fits.html").read_text(encoding="utf-8")
    return rendered(
        template,
        title=title,
        law=f"{law.name}: {greek(law.equation)} ({law.source})",
        figures=_pictures(fits, by),
        fits=[_context(group, fit) for group, fit in fits.items()],
        command=command,
        version=__version__,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def _pictures(fits: Mapping[str, Fit], by: str | None) -> list[dict[str, Any]]:
    law = next(iter(fits.values())).law
    if len(law.variables) == 1:
        caption = (
            "Points, law with its 95 % band, and residuals below. Intervals and doubts are listed under the figure."
        )
        return [picture(draw_fits(fits, by=by), caption, small=True)]
    caption = "Left: points over contours of the law. Right: residuals over the predicted loss."
    found = [
        picture(draw_fits({"": fit}), f"{named(group)}: {caption}" if group else caption) for group, fit in fits.items()
    ]
    if len(fits) > 1:
        found.append(picture(draw_fits(fits, by=by), "Residuals of all groups over the predicted loss.", small=True))
    return found


def _context(group: str, fit: Fit) -> dict[str, Any]:
    names = [name for name in fit.law.variables if name in fit.points.variables]
    order = np.argsort(-np.abs(fit.residuals), kind="stable")
    predicted = fit.law.loss(fit.theta, fit.points.variables)
    return {
        "title": named(group) or "Constants",
        "sentence": sentence(fit, named(group)),
        "constants": [(greek(name), *rest) for name, *rest in constant_rows(fit)],
        "remarks": remarks(fit),
        "flags": fit.flags,
        "checklist": answers(fit),
        "columns": ("row", *(LETTERS.get(name, name) for name in names), "loss", "law", "measured / law - 1"),
        "rows": [
            (
                fit.points.rows[i],
                *(readable(fit.points.variables[name][i]) for name in names),
                f"{fit.points.loss[i]:.4f}",
                f"{predicted[i]:.4f}",
                f"{np.expm1(fit.residuals[i]):+.2%}",
            )
            for i in order
        ],
        "left_out": [(gone.row, gone.rule) for gone in fit.points.left_out],
    }
