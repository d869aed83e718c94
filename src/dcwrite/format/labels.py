"""Labels of scalar features: what is measured, and its unit.

Alone here: names for people. Invariant: every feature has a label, if only its own name; a unit
stands at the end, in square brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from .text import drawable

__all__ = ["feature_label"]

_LABELS: Final = {
    "area_cvx": "Convex area [px]",
    "area_msd": "Measured area [px]",
    "area_ratio": "Porosity",
    "area_um": "Area [µm²]",
    "area_um_raw": "Raw contour area [µm²]",
    "aspect": "Aspect ratio",
    "bg_med": "Background brightness [a.u.]",
    "bg_off": "Background offset [a.u.]",
    "bright_avg": "Brightness, mean [a.u.]",
    "bright_bc_avg": "Brightness above background, mean [a.u.]",
    "bright_bc_sd": "Brightness above background, SD [a.u.]",
    "bright_perc_10": "Brightness, 10th percentile [a.u.]",
    "bright_perc_90": "Brightness, 90th percentile [a.u.]",
    "bright_sd": "Brightness, SD [a.u.]",
    "circ": "Circularity",
    "deform": "Deformation",
    "deform_raw": "Raw contour deformation",
    "eccentr_prnc": "Eccentricity",
    "emodulus": "Young's modulus [kPa]",
    "flow_rate": "Flow rate [µL/s]",
    "frame": "Frame",
    "g_force": "Acceleration [g]",
    "index": "Event",
    "index_online": "Event during acquisition",
    "inert_ratio_cvx": "Convex inertia ratio",
    "inert_ratio_prnc": "Principal inertia ratio",
    "inert_ratio_raw": "Raw inertia ratio",
    "nevents": "Events in the same frame",
    "per_ratio": "Perimeter ratio, raw to convex",
    "per_um_raw": "Raw perimeter [µm]",
    "pos_x": "Position along the channel [µm]",
    "pos_y": "Position across the channel [µm]",
    "pressure": "Pressure [mPa]",
    "qpi_dm": "Dry mass [pg]",
    "qpi_dm_dns": "Dry mass density [mg/mL]",
    "qpi_focus": "Focus distance [µm]",
    "qpi_pha_int": "Integrated phase [rad]",
    "qpi_ri_avg": "Refractive index",
    "size_x": "Length [µm]",
    "size_y": "Height [µm]",
    "sym_x": "Symmetry, left to right",
    "sym_y": "Symmetry, top to bottom",
    "temp": "Chip temperature [°C]",
    "temp_amb": "Ambient temperature [°C]",
    "tilt": "Tilt [rad]",
    "time": "Time [s]",
    "volume": "Volume [µm³]",
}
_FLUORESCENCE: Final = {
    "area": "peak area [a.u.]",
    "dist": "distance of peaks [µs]",
    "max": "maximum [a.u.]",
    "max_ctc": "maximum, corrected [a.u.]",
    "npeaks": "number of peaks",
    "pos": "peak position [µs]",
    "width": "peak width [µs]",
}
_TEXTURE: Final = {
    "asm": "angular second moment",
    "con": "contrast",
    "cor": "correlation",
    "den": "difference entropy",
    "ent": "entropy",
    "f12": "correlation measure 1",
    "f13": "correlation measure 2",
    "idm": "inverse difference moment",
    "sen": "sum entropy",
    "sva": "sum variance",
    "var": "variance",
}


def _fluorescence(found: re.Match[str], metadata: Mapping[str, Any]) -> str | None:
    channel, kind = found.groups()
    text = _FLUORESCENCE.get(kind)
    if text is None:
        return None
    name = metadata.get(f"fluorescence:channel {channel} name")
    band = f" ({drawable(name)})" if isinstance(name, str) and 0 < len(name) <= 12 else ""
    return f"FL-{channel}{band} {text}"


def _texture(found: re.Match[str], _metadata: Mapping[str, Any]) -> str | None:
    text = _TEXTURE.get(found[1])
    which = {"avg": "mean", "ptp": "range"}[found[2]]
    return None if text is None else f"Texture: {text}, {which}"


_PATTERNS: Final[
    tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Mapping[str, Any]], str | None]], ...]
] = (
    (re.compile(r"fl([1-9])_(\w+)"), _fluorescence),
    (re.compile(r"tex_(\w+)_(avg|ptp)"), _texture),
    (re.compile(r"ml_score_(\w+)"), lambda found, _: f"Score of class {found[1]}"),
    (re.compile(r"userdef(\d)"), lambda found, _: f"User-defined {found[1]}"),
)


def feature_label(feat: str, metadata: Mapping[str, Any] | None = None) -> str:
    """Label of an axis: what is measured, and its unit.

    Parameters
    ----------
    feat
        Name of a scalar feature.
    metadata
        Of the recording: channels of fluorescence get their names.

    Returns
    -------
    str
        The name itself, where the feature is not known.
    """
    if feat in _LABELS:
        return _LABELS[feat]
    for pattern, describe in _PATTERNS:
        if found := pattern.fullmatch(feat):
            label = describe(found, metadata or {})
            if label is not None:
                return label
    return feat
