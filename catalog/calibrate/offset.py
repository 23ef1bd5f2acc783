"""The offset that digital numbers still carry: what metadata claim, what the pixels allow, and what is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from catalog.calibrate.floor import PixelVerdict
from catalog.errors import CalibrationError

Policy = Literal["error", "trust-product", "trust-pixels"]
"""What to do where claims contradict each other or the pixels."""

POLICIES: tuple[str, ...] = get_args(Policy)

Confidence = Literal["certain", "likely", "undecidable"]

USUAL_STEP_DN = 1000.0
"""ESA's offset in every band of every baseline from 04.00 on, so far (github.com/stactools-packages/sentinel2 #44)."""


@dataclass(frozen=True)
class Claim:
    """What one source says is still to be added to the stored digital numbers."""

    source: str
    """File and field, or the rule by its provider."""
    offset_dn: Mapping[str, float]
    """Band to offset in digital numbers; bands of which the source says nothing are absent."""


@dataclass(frozen=True)
class Weighing:
    """Claims and pixels side by side, before any policy."""

    word: Mapping[str, tuple[float, str]]
    """Band to the offset of the first claim that covers it, and its source."""
    steps: Mapping[str, float]
    """Band to the size of the offset in question, DN."""
    pixels: Mapping[str, PixelVerdict]
    """Band to what its pixels allow."""
    quarrels: tuple[str, ...]
    """Claims that contradict one another, in words."""
    refuted: tuple[str, ...]
    """Claims that the pixels contradict, in words."""
    disputed: frozenset[str]
    """Bands of either."""
    unclear: frozenset[str]
    """Bands about which claims contradict one another."""
    evidence: tuple[str, ...]
    """All that was heard, in the order asked."""

    @property
    def finding(self) -> str:
        """agreed, unconfirmed, pixels against metadata, metadata against metadata, or nothing said."""
        if not self.word:
            return "nothing said"
        if self.quarrels:
            return "metadata against metadata"
        if self.refuted:
            return "pixels against metadata"
        return "agreed" if all(self.pixels[b].offset_present is not None for b in self.word) else "unconfirmed"


@dataclass(frozen=True)
class Offset:
    """The offset taken, and why."""

    offset_dn: Mapping[str, float]
    """Band to the number to add to stored DN."""
    source: str
    """The claim that was followed, or the pixels."""
    confidence: Confidence
    """certain: said and seen; likely: one of several voices was followed; undecidable: said, and pixels cannot tell."""
    uncertainty_dn: Mapping[str, float]
    """Band to the error in DN if the choice is wrong; 0 where claim and pixels agree undisputed."""
    finding: str
    """As in Weighing."""
    policy: Policy
    """By which a contradiction would have been, or was, settled."""
    evidence: tuple[str, ...] = field(default_factory=tuple)
    """As in Weighing."""

    def record(self, bands: Sequence[str], quantification: float) -> dict[str, Any]:
        """What a cube and its item keep, JSON-able; uncertainty as reflectance."""
        return {
            "offset_dn": {b: self.offset_dn[b] for b in bands},
            "offset_source": self.source,
            "offset_confidence": self.confidence,
            "offset_uncertainty": {b: self.uncertainty_dn[b] / quantification for b in bands},
            "offset_finding": self.finding,
            "offset_policy": self.policy,
            "offset_evidence": list(self.evidence),
        }


def steps_of(claims: Sequence[Claim], bands: Sequence[str]) -> dict[str, float]:
    """Band to the size of the offset in question: the first one claimed that is not 0, else ESA's."""
    sizes = {b: [abs(c.offset_dn[b]) for c in claims if c.offset_dn.get(b)] for b in bands}
    return {b: s[0] if s else USUAL_STEP_DN for b, s in sizes.items()}


def weigh(
    claims: Sequence[Claim], pixels: Mapping[str, PixelVerdict], bands: Sequence[str], notes: Sequence[str] = ()
) -> Weighing:
    """Hold claims against one another and against the pixels.

    Parameters
    ----------
    claims
        In the order of trust: the product's own files, the item's fields, the provider's rule.
    pixels
        By band, from `catalog.calibrate.floor.pixel_verdicts` with the steps of `steps_of`.
    notes
        What else was read and is no claim, for the record.
    """
    steps = steps_of(claims, bands)
    word: dict[str, tuple[float, str]] = {}
    quarrels: dict[str, list[str]] = {}
    refuted: dict[str, list[str]] = {}
    for band in bands:
        said = [(c.offset_dn[band], c.source) for c in claims if band in c.offset_dn]
        if not said:
            continue
        word[band] = said[0]
        for value, source in said[1:]:
            if value != said[0][0]:
                claim = f"{said[0][1]} says {said[0][0]:g}, {source} says {value:g}"
                quarrels.setdefault(claim, []).append(band)
        present = pixels[band].offset_present
        if present is not None and present != (said[0][0] != 0):
            state = "still hold" if present else "no longer hold"
            claim = f"{said[0][1]} says {said[0][0]:g}, but the pixels {state} an offset of {steps[band]:g}"
            refuted.setdefault(claim, []).append(band)
    apart, seen = (frozenset(b for bs in d.values() for b in bs) for d in (quarrels, refuted))
    heard = [f"{c.source}: {_values(c.offset_dn, bands)}" for c in claims]
    return Weighing(
        word=word,
        steps=steps,
        pixels={b: pixels[b] for b in bands},
        quarrels=tuple(f"{claim} ({', '.join(bs)})" for claim, bs in quarrels.items()),
        refuted=tuple(f"{claim} ({', '.join(bs)})" for claim, bs in refuted.items()),
        disputed=apart | seen,
        unclear=apart,
        evidence=(*heard, *notes, *_seen({b: pixels[b] for b in bands})),
    )


def settle(weighing: Weighing, policy: Policy, item: str) -> Offset:
    """The offset by policy; a contradiction is an error where the policy says so, or where nobody can be trusted.

    Raises
    ------
    CalibrationError
        Naming the item, the claims and the way out.
    """
    if policy not in POLICIES:
        raise CalibrationError(
            f"{policy!r} is no policy for a disputed offset",
            item=item,
            enough=f"one of {', '.join(POLICIES)}",
            todo="name one of these (--offset-policy)",
        )
    silent = [b for b in weighing.steps if b not in weighing.word]
    if (weighing.disputed and policy == "error") or (silent and policy != "trust-pixels"):
        raise _refusal(weighing, policy, item, silent)
    taken: dict[str, tuple[float, str]] = {}
    for band, step in weighing.steps.items():
        verdict = weighing.pixels[band]
        by_pixels = policy == "trust-pixels" and (band in weighing.disputed or band in silent)
        if not by_pixels:
            taken[band] = weighing.word[band]
        elif verdict.offset_present is None:
            raise _refusal(weighing, policy, item, silent)
        else:
            taken[band] = (-step if verdict.offset_present else 0.0, "the pixels")
    sure = {b: _sure(weighing, b) for b in taken}
    return Offset(
        offset_dn={b: value for b, (value, _) in taken.items()},
        source="; ".join(dict.fromkeys(source for _, source in taken.values())),
        confidence=_confidence(weighing, policy, sure),
        uncertainty_dn={b: 0.0 if sure[b] else weighing.steps[b] for b in taken},
        finding=weighing.finding,
        policy=policy,
        evidence=weighing.evidence,
    )


def _sure(weighing: Weighing, band: str) -> bool:
    """Whether metadata say it, nobody contradicts, and the pixels confirm it."""
    known = weighing.pixels[band].offset_present is not None
    return known and band in weighing.word and band not in weighing.disputed


def _confidence(weighing: Weighing, policy: Policy, sure: Mapping[str, bool]) -> Confidence:
    if all(sure.values()):
        return "certain"
    if any(sure.values()) or (policy == "trust-pixels" and weighing.finding != "unconfirmed"):
        return "likely"
    upheld = [weighing.pixels[b].offset_present == (w != 0) for b, (w, _) in weighing.word.items()]
    return "likely" if upheld and all(upheld) else "undecidable"


def _refusal(weighing: Weighing, policy: Policy, item: str, silent: Sequence[str]) -> CalibrationError:
    """Two ways to be stuck: nothing says anything, or what is said cannot all be true."""
    seen = "; ".join(_seen(weighing.pixels))
    pixels_know = any(v.offset_present is not None for v in weighing.pixels.values())
    if silent:
        ways = "register the product with its metadata files"
        ways += "; or `--offset-policy trust-pixels`" if pixels_know and policy != "trust-pixels" else ""
        return CalibrationError(
            f"no metadata say which radiometric offset {', '.join(silent)} carry; {seen}",
            item=item,
            enough="the product's XML, raster:scale and raster:offset, or the processing baseline; never a date",
            todo=ways,
        )
    claims = "; ".join((*weighing.quarrels, *weighing.refuted))
    choices = ["`--offset-policy trust-product` takes the first claim"]
    choices += ["`--offset-policy trust-pixels` takes what the pixels show"] if pixels_know else []
    return CalibrationError(
        f"what is said of the radiometric offset cannot all be true: {claims}; {seen}",
        item=item,
        enough="metadata that agree with each other and with the pixels",
        todo=f"leave the scene out, fetch it from another provider, or decide: {'; '.join(choices)}",
    )


def _seen(pixels: Mapping[str, PixelVerdict]) -> list[str]:
    """What the pixels show, bands of one reason together."""
    reasons: dict[str, list[str]] = {}
    for band, verdict in pixels.items():
        state = {True: "offset still there", False: "no offset left", None: "undecidable"}[verdict.offset_present]
        reasons.setdefault(f"{state}: {verdict.reason}", []).append(band)
    return [f"pixels of {', '.join(bands)}: {reason}" for reason, bands in reasons.items()]


def _values(offsets: Mapping[str, float], bands: Sequence[str]) -> str:
    """Offsets in words: one number where all bands share it."""
    values = {b: offsets[b] for b in bands if b in offsets}
    if len(set(values.values())) == 1 and len(values) == len(bands):
        return f"{next(iter(values.values())):g}"
    return ", ".join(f"{b} {v:g}" for b, v in values.items()) or "nothing on these bands"
