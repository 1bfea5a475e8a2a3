"""The methods of DUA's table 1: how experts are trained, and what becomes of them.

De Lange et al. 2020, "Unsupervised model personalization while preserving privacy and scalability:
an open problem", section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.strategies.dua.request import ImportanceRequest
from fedadapt.strategies.dua.strategy import MergedExperts


@dataclass(frozen=True, kw_only=True, eq=False)
class PersonalExperts(MergedExperts):
    """RACL: experts merged for each user by what matters on that user's images; no labels."""

    personal: ClassVar[bool] = True
    client_gets: ClassVar[str] = "the newest task's expert"
    client_reports: ClassVar[str] = "how much its parameters matter (not with `merge-on=client`)"
    personal_is: ClassVar[str] = "merged on the server, or on the client"
    unseen_get: ClassVar[str] = "what all get: no client trains, all are asked"

    upload: str = param(
        "fp32",
        "how importances travel",
        choices=("fp32", "fp16", "log8", "difference"),
    )
    share: float = param(
        0.1, "share of the entries that travel with upload=difference", above=0, at_most=1
    )
    merge_on: str = param("server", "who merges the experts", choices=("server", "client"))

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        if "share" in arguments and arguments.get("upload") != "difference":
            raise InputError("strategy-args: share: goes with upload=difference; leave one out")
        if arguments.get("merge_on") == "client" and "upload" in arguments:
            raise InputError(
                "strategy-args: upload: with merge_on=client nothing is uploaded; leave one out"
            )

    @property
    def importance_request(self) -> ImportanceRequest:
        return ImportanceRequest(
            **self.measure,
            upload=self.upload,
            share=self.share,
            stays=self.merge_on == "client",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MasRacl(PersonalExperts):
    """Experts merged for each user by MAS importances; no labels. De Lange et al. 2020."""

    method = "imm"
    merged_by = "mas"


@dataclass(frozen=True, kw_only=True, eq=False)
class FimRacl(PersonalExperts):
    """Experts merged for each user by Fisher information. De Lange et al. 2020."""

    method = "imm"
    merged_by = "fisher"


@dataclass(frozen=True, kw_only=True, eq=False)
class MasImm(MergedExperts):
    """Experts merged for all by MAS importances. Lee et al. 2017; De Lange et al. 2020."""

    method = "imm"
    merged_by = "mas"


@dataclass(frozen=True, kw_only=True, eq=False)
class FimImm(MergedExperts):
    """Experts merged for all by Fisher information (mode-IMM). Lee et al. 2017."""

    method = "imm"
    merged_by = "fisher"


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskExperts(MergedExperts):
    """Each task answered by its own expert. De Lange et al. 2020."""

    method = "imm"
    separate = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequential(MergedExperts):
    """One task learnt after another, nothing held. De Lange et al. 2020."""

    method = "fine-tune"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ewc(MergedExperts):
    """One task learnt after another, held by Fisher information. Kirkpatrick et al. 2017."""

    method = "ewc"


@dataclass(frozen=True, kw_only=True, eq=False)
class Mas(MergedExperts):
    """One task learnt after another, held by MAS importances. Aljundi et al. 2018."""

    method = "mas"


@dataclass(frozen=True, kw_only=True, eq=False)
class Lwf(MergedExperts):
    """One task learnt after another, held by distillation. Li and Hoiem 2016."""

    method = "lwf"


@dataclass(frozen=True, kw_only=True, eq=False)
class Joint(MergedExperts):
    """All tasks learnt together: what the others are measured by. De Lange et al. 2020."""

    method = "joint"
