"""The product with everything small, without threads, and with salts that a seed decides."""

import contextlib
import gc
import inspect
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Self
from unittest import mock

from dmcore.shadow import allocating, forward, receiving, records, redo, segments
from dmcore.shadow.places import GroupPlaces

BODY_BYTES = 16 << 10
"""More than a batch of these stories has."""


class Inline:
    """An executor whose threads are the caller."""

    def __init__(self, threads: int = 1, thread_name_prefix: str = "") -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - as the real one
            done.set_exception(error)
        return done


def remembered(real: Callable[..., Any]) -> Callable[..., Any]:
    """A method of PLACES, whose paths are made once: making them is a fifth of what a recovery costs."""
    held: dict[tuple[Any, ...], Any] = {}

    def call(places: GroupPlaces, *args: Any) -> Any:
        if args not in held:
            held[args] = real(places, *args)
        return held[args]

    return call


def remembering() -> Iterator[tuple[object, str, object]]:
    for name, held in vars(GroupPlaces).items():
        if isinstance(held, property) and held.fget is not None:
            yield GroupPlaces, name, property(remembered(held.fget))
        elif inspect.isfunction(held) and not name.startswith("_"):
            yield GroupPlaces, name, remembered(held)


@contextlib.contextmanager
def seldom_collecting() -> Iterator[None]:
    """A recovery leaves little in cycles: looking for it all the time costs a tenth."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def small(rng: random.Random) -> Iterator[None]:
    """Segments and rounds so small that a tiny disk has several; no threads; salts that the seed decides."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(seldom_collecting())
        for where, name, value in (
            (forward, "ThreadPoolExecutor", Inline),
            (records, "MAX_BODY_BYTES", BODY_BYTES),
            (receiving, "MAX_BODY_BYTES", BODY_BYTES),
            (redo, "MAX_BATCH_DATA_BYTES", BODY_BYTES),
            (redo, "ROUND_FRAMES", rng.randint(1, 5)),
            (segments, "SEGMENT_BYTES", rng.choice((1, 1, 2, 3)) * allocating.UNIT_BYTES),
            (segments, "WINDOW_BYTES", 16 << 10),
            (allocating, "FIRST_BYTES", allocating.UNIT_BYTES),
            (os, "urandom", rng.randbytes),
            *remembering(),
        ):
            undo.enter_context(mock.patch.object(where, name, value))
        yield
