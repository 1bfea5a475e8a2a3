"""Strategies whose server has a network of its own, and makes each client's tensors with it."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.step_rules import Adam
from fedadapt.messages import Answers, Config, Sent, Update
from fedadapt.parameters import from_run, param
from fedadapt.selectors import everything
from fedadapt.strategies.base import LocalTraining, Metadata, Strategy
from fedadapt.strategies.clustered_models import until_quorum_fails
from fedadapt.strategies.generator_state import CODES, GeneratorState, NewCode
from fedadapt.weights import Weights, repeat, row, stack

INSTALL = "query.install"
LEARN = "query.new_code"
INSTALLED = "installed"  # parts of a client's state: what came by INSTALL, as it came,
OWN = "own"  # those tensors of it that the client has changed,
TRAINED = "trained"  # and what it made of the generated tensors when it trained last


@dataclass(frozen=True, kw_only=True)
class Generated(Strategy[GeneratorState]):
    """The server makes tensors of each client's network from a code, by a generator that it trains.

    A subclass names those tensors (``generated``), begins the generator and the codes
    (``begin_generator``), makes tensors of them (``generate``) and says how the server moves
    (``rule``). Clients train what they receive and send it back. That it went from t to t' stands
    for the gradient t - t', which the server follows through the generator, one step a round: the
    generator by the mean over the clients of the round, a code by its own client alone.

    All other tensors are sent to a client once, before it first trains, and what it trains of them
    stays there; running statistics of batch norm are among them. A client whose code has not learnt
    is served what is made of the mean code.

    Clients that never train get a code of their own after the training of the last round, in
    ``new_rounds`` exchanges: each begins at the mean code, trains what is made of its code on its
    training images as the others do, and sends it back, and its code alone makes a step by the same
    rule. The generator and all other codes are held, and so is the base model.
    """

    leaves: ClassVar[Mapping[str, str]] = {
        INSTALL: "nothing but that the tensors came",
        "train": "the tensors that the server makes, trained",
        LEARN: "of a client that never trains: the tensors that the server makes, trained",
    }
    query_types: ClassVar[tuple[str, ...]] = (INSTALL, LEARN)
    personal_is: ClassVar[str] = "made on the server"
    batch_norm_is: ClassVar[str] = "statistics stay on the client"

    model: nn.Module = from_run()  # the architecture; its weights are never read
    training: LocalTraining = from_run(default_factory=LocalTraining)
    seed: int = from_run(default=0)
    rounds: int | None = from_run(default=None)
    newcomers: tuple[int, ...] = from_run(default=())  # clients that never train
    new_rounds: int = param(
        0, "exchanges in which clients that never train learn their code; 0: none", at_least=0
    )
    serve: str = param(
        "generated",
        "personal models: as the server makes them, or as the client trained them last",
        choices=("generated", "trained"),
    )

    @property
    @abstractmethod
    def rule(self) -> Sgd | Adam:
        """How the server's tensors move by their gradients."""

    @abstractmethod
    def generated(self, model: nn.Module) -> frozenset[str]:
        """Name the tensors of ``model`` that the server makes; a selector."""

    @abstractmethod
    def begin_generator(self, start: Weights, number: int) -> tuple[Weights, Tensor]:
        """Draw the generator's tensors, [...], and the codes of so many clients, [N, c].

        Args:
            start: The initial values of the tensors that are made, [...].
            number: Of clients.

        """

    @abstractmethod
    def generate(self, generator: Weights, codes: Tensor) -> Weights:
        """Return what is made of ``codes`` [D, c], each tensor [D, ...]; differentiable."""

    def trains(self, model: nn.Module) -> frozenset[str]:
        """Name the tensors of ``model`` that clients train; a selector."""
        return everything(model)

    def limited(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return a step's gradients, of the generator and of codes, as ``rule`` is to see them."""
        return gradients

    @final
    def staying(self) -> Collection[str]:
        return self._changing

    @final
    def travelling(self, start: Weights) -> tuple[Collection[str], Collection[str]]:
        return self._generated, self._generated

    @final
    def begin(self, start: Weights, clients: Sequence[int]) -> GeneratorState:
        clients = tuple(sorted(clients))
        generator, codes = self.begin_generator(_only(start, self._generated), len(clients))
        generator, codes = _copied(generator), codes.clone()
        memory = self.rule.begin({n: t.unsqueeze(0) for n, t in generator.items()})
        code_memory = self.rule.begin({CODES: codes})
        return GeneratorState(start, clients, generator, codes, memory, code_memory)

    @final
    def actions(self, state: GeneratorState, round: int) -> tuple[str, ...]:
        complete = not self._rest or state.installed.issuperset(state.clients)
        actions = ("train",) if complete else (INSTALL, "train")
        ends = round == self.rounds and self._to_learn(state)
        return (*actions, *[LEARN] * self.new_rounds) if ends else actions

    @final
    def send(self, state: GeneratorState, action: str, round: int, clients: Sequence[int]) -> Sent:
        config: Config = {"server-round": round}
        if action == INSTALL:
            lacking = tuple(c for c in clients if c not in state.installed)
            whole = _only(state.start, self._rest)
            return Sent(lacking, repeat(whole, len(lacking)) if lacking else {}, config)
        able = tuple(c for c in clients if not self._rest or c in state.installed)
        rest: Weights = {}
        if action == LEARN:
            able = self._to_learn(state)
            if not state.installed.issuperset(able):
                rest = _only(state.start, self._rest)
        rows = [self._made_of(state, state.code(client)) | rest for client in able]
        return Sent(able, stack(rows) if rows else {}, config)

    @final
    def expected(self, action: str, sent: Weights) -> Weights:
        return {} if action == INSTALL else _only(sent, self._generated)

    @final
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        if action == INSTALL:
            return Update({}, cohort.num_examples).keeping(installed=received.weights)
        made = _only(received.weights, self._generated)
        came = {n: t for n, t in received.weights.items() if n not in made}
        installed = came or cohort.state(INSTALLED, {})
        own = cohort.state(OWN, _only(installed, self._changing))
        fitted = fit(
            cohort,
            made | installed | own,
            self.training.optimizer,
            self.training.schedule,
            trainable=self.trains,
        )
        trained = {n: fitted.weights[n] for n in made}
        update = Update(trained, cohort.num_examples, {"loss": fitted.loss})
        if came:
            update = update.keeping(installed=came)
        if own:
            update = update.keeping(own={n: fitted.weights[n] for n in own})
        return update.keeping(trained=trained) if self.serve == "trained" else update

    @final
    def merge(
        self, state: GeneratorState, action: str, round: int, answers: Iterable[Answers]
    ) -> GeneratorState:
        if action == LEARN:
            return self._learnt(state, dict(sorted(_by_client(until_quorum_fails(answers)))))
        answered = dict(sorted(_by_client(answers)))
        if action == INSTALL:
            return replace(state, installed=state.installed | answered.keys())
        if not answered:
            return state
        state = self._meeting(state, answered.keys())
        # Made anew, of the state that it was sent from: the server keeps no copy of what it sends.
        moved = {
            client: {n: t - trained[n] for n, t in self._made_of(state, state.code(client)).items()}
            for client, trained in answered.items()
        }
        state = replace(
            state,
            generator=_copied(state.generator),
            codes=state.codes.clone(),
            generator_memory=_copied(state.generator_memory),
            code_memory=_copied(state.code_memory),
            learnt=state.learnt | answered.keys(),
        )
        self._step(state, list(moved), stack(list(moved.values())))
        return state

    @final
    def models(self, state: GeneratorState, clients: Sequence[int]) -> Mapping[str, Weights]:
        common = self._made_of(state, state.mean_code)
        has_own = state.learnt | state.new.keys()
        each = [self._made_of(state, state.code(c)) if c in has_own else common for c in clients]
        start = repeat(state.start, len(clients))
        return {"base": start | repeat(common, len(clients)), "personal": start | stack(each)}

    @final
    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        weights = weights | cohort.state(OWN, _only(weights, self._changing))
        if model == "base" or self.serve == "generated":
            return weights
        return weights | cohort.state(TRAINED, _only(weights, self._generated))

    @final
    def gradients(
        self, generator: Weights, codes: Tensor, moved: Weights
    ) -> tuple[Weights, Tensor]:
        """Return the gradients of <made, moved> by the generator, mean over clients, and by codes.

        Args:
            codes: Of some clients, [D, c].
            moved: What they received minus what they sent back, each [D, ...]; held constant.

        """
        leaves = {n: t.detach().requires_grad_() for n, t in generator.items()}
        leaf = codes.detach().requires_grad_()
        with torch.enable_grad():
            made = self.generate(leaves, leaf)
            *by_tensor, of_codes = torch.autograd.grad(
                [made[n] for n in moved], [*leaves.values(), leaf], [*moved.values()]
            )
        return {n: g / len(codes) for n, g in zip(leaves, by_tensor, strict=True)}, of_codes

    @final
    def pack(self, state: GeneratorState) -> tuple[dict[str, Tensor], Metadata]:
        return state.pack()

    @final
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> GeneratorState:
        return GeneratorState.unpack(tensors, metadata)

    @cached_property
    def _generated(self) -> frozenset[str]:
        return self.generated(self.model)

    @cached_property
    def _rest(self) -> frozenset[str]:
        """Names of the tensors that are installed."""
        return everything(self.model) - self._generated

    @cached_property
    def _changing(self) -> frozenset[str]:
        """Names of those that change on the clients."""
        buffers = {n for n, _ in self.model.named_buffers()}
        return self._rest & (self.trains(self.model) | buffers)

    @torch.no_grad()
    def _made_of(self, state: GeneratorState, code: Tensor) -> Weights:
        """What is made for one client, [...].

        One at a time: of several codes at once it would differ by rounding with their number, and
        what did not move would seem to have moved.
        """
        return row(self.generate(state.generator, code.unsqueeze(0)), 0)

    def _to_learn(self, state: GeneratorState) -> tuple[int, ...]:
        """Clients that never train and may learn a code."""
        return tuple(sorted(set(self.newcomers) - state.learnt)) if self.new_rounds else ()

    def _learnt(self, state: GeneratorState, answered: Mapping[int, Weights]) -> GeneratorState:
        """Each new client's code after one step, by what it trained; everything else is held."""
        new = dict(state.new)
        for client, trained in answered.items():
            code = state.code(client).unsqueeze(0)
            memory = new[client].memory if client in new else self.rule.begin({CODES: code})
            made = self._made_of(state, code[0])
            moved = {n: (t - trained[n]).unsqueeze(0) for n, t in made.items()}
            [gradient] = self.limited([self.gradients(state.generator, code, moved)[1]])
            code, memory = code.clone(), {n: t.clone() for n, t in memory.items()}
            self.rule.update({CODES: code}, {CODES: gradient}, memory)
            new[client] = NewCode(code[0], memory)
        installed = state.installed | answered.keys() if self._rest else state.installed
        return replace(state, new=dict(sorted(new.items())), installed=installed)

    def _meeting(self, state: GeneratorState, clients: Collection[int]) -> GeneratorState:
        """Return the state with codes for clients that the server had not met: the mean code."""
        new = sorted(set(clients) - set(state.clients))
        if not new:
            return state
        codes = state.mean_code.expand(len(new), -1)
        memory = self.rule.begin({CODES: codes})
        everyone = [*state.clients, *new]
        order = sorted(range(len(everyone)), key=everyone.__getitem__)
        return replace(
            state,
            clients=tuple(sorted(everyone)),
            codes=torch.cat([state.codes, codes])[order],
            code_memory={n: torch.cat([t, memory[n]])[order] for n, t in state.code_memory.items()},
        )

    def _step(self, state: GeneratorState, clients: list[int], moved: Weights) -> None:
        """One step of the server by what some clients' tensors moved; in place."""
        places = [state.clients.index(client) for client in clients]
        codes = state.codes[places]
        by_name, of_codes = self.gradients(state.generator, codes, moved)
        *limited, of_codes = self.limited([*by_name.values(), of_codes])
        self.rule.update(
            {n: t.unsqueeze(0) for n, t in state.generator.items()},
            {n: t.unsqueeze(0) for n, t in zip(by_name, limited, strict=True)},
            state.generator_memory,
        )
        memory = {n: t[places] for n, t in state.code_memory.items()}
        self.rule.update({CODES: codes}, {CODES: of_codes}, memory)
        state.codes[places] = codes
        for n, t in memory.items():
            state.code_memory[n][places] = t


def _by_client(answers: Iterable[Answers]) -> Iterator[tuple[int, Weights]]:
    """What each client sent, [...]. All of it is held: the order of arrival may not matter."""
    for some in answers:
        if some.update is not None:
            for d, client in enumerate(some.clients):
                yield client, row(some.update.weights, d)


def _only(weights: Weights, names: frozenset[str]) -> Weights:
    return {n: t for n, t in weights.items() if n in names}


def _copied(weights: Weights) -> Weights:
    """In memory of torch's own: what a matrix product rounds to depends on where it begins."""
    return {n: t.clone() for n, t in weights.items()}
