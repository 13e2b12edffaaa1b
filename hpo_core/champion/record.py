"""Records the verdict on a challenger in the study's run."""

from __future__ import annotations

import math

from hpo_core.base.errors import InputError
from hpo_core.champion.challenge import Challenge
from hpo_core.champion.succession import PROMOTED, REFUSED, succession
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import Metric, Version
from hpo_core.ledger.tags import Tag
from hpo_core.study.sections import ChampionSpec


def champion_spec(ledger: Ledger) -> ChampionSpec:
    if ledger.spec.champion is None:
        raise InputError(
            "champion",
            f"study {ledger.spec.name!r} names no registered model",
            "add champion: {model: NAME} to the study file, and run it",
        )
    return ledger.spec.champion


def name_verdict(ledger: Ledger, challenge: Challenge) -> None:
    """Write the verdict into the study's run, its numbers as metrics. Idempotent."""
    if not challenge.done:
        return
    compared, asked, record = ledger.spec.compared, champion_spec(ledger), challenge.record
    tags = {Tag.CHAMPION_MODEL: asked.model, Tag.CHAMPION_DECISION: REFUSED}
    if record is None:
        tags[Tag.CHAMPION_REASON] = challenge.obstacle[:1000]
        ledger.study.log(tags)
        return
    own = registered_by(ledger.store.versions(asked.model), ledger)
    last = [each for each in own if each.tags.get(Tag.TRIAL) == str(challenge.trial.number)][-1]
    tags |= {
        Tag.CHAMPION_DECISION: last.tags[Tag.DECISION],
        Tag.CHAMPION_VERSION: str(last.number),
        Tag.CHAMPION_AGAINST: last.tags.get(Tag.AGAINST, ""),
        Tag.CHAMPION_REASON: last.tags.get(Tag.REASON, ""),
    }
    numbers = {
        f"challenger/{compared.metric}": Tag.MEAN,
        f"challenger/{compared.metric}_deviation": Tag.DEVIATION,
        f"champion/{compared.metric}": Tag.AGAINST_VALUE,
        "challenger/gain": Tag.GAIN,
        "challenger/margin": Tag.MARGIN,
    }
    end = max(each.end or 0 for each in challenge.retrained) if challenge.retrained else now_ms()
    values = {name: float(record.tags[key]) for name, key in numbers.items() if key in record.tags}
    metrics = [Metric(name, value, end) for name, value in values.items() if math.isfinite(value)]
    ledger.study.log(tags, metrics)


def registered_by(versions: list[Version], ledger: Ledger) -> list[Version]:
    """The versions that a study registered and that were not outrun, oldest first."""
    run, line = ledger.study_run.id, succession(versions)
    own = [each for each in versions if each.tags.get(Tag.STUDY_RUN) == run]
    return [each for each in own if each.tags.get(Tag.DECISION) != PROMOTED or each in line]
