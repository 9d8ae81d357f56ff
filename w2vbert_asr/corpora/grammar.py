"""What the speakers of the `mini` corpus say: numbers, spelled letters, dates and commands; about 100 words.

Sentences have 2 to 8 words. No torch.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
ROOMS = ("kitchen", "bedroom", "bathroom", "garden", "office")
DEVICES = ("light", "lamp", "fan", "heater", "radio")
LETTERS = tuple(string.ascii_lowercase)


def sentence(rng: random.Random) -> str:
    """A random sentence, in lower-case words."""
    kinds: tuple[Callable[[random.Random], str], ...] = (_digits, _spelling, _date, _command)
    return rng.choices(kinds, weights=(3, 2, 3, 4))[0](rng)


def spoken(text: str) -> str:
    """The sentence as the synthesizer must see it: the letter a, which it takes for the article, is written eh."""
    return " ".join("eh" if word == "a" else word for word in text.split())


def number(value: int) -> str:
    """0 to 39 in words: twenty three."""
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return TEENS[value - 10]
    tens = ("twenty", "thirty")[value // 10 - 2]
    return tens if value % 10 == 0 else f"{tens} {DIGITS[value % 10]}"


def _digits(rng: random.Random) -> str:
    digits = " ".join(rng.choices(DIGITS, k=rng.randint(3, 7)))
    return rng.choice(("dial ", "call ", "")) + digits


def _spelling(rng: random.Random) -> str:
    return "spell " + " ".join(rng.choices(LETTERS, k=rng.randint(2, 5)))


def _date(rng: random.Random) -> str:
    day = f"{rng.choice(MONTHS)} {number(rng.randint(1, 31))}"
    weekday = rng.choice((f"{rng.choice(WEEKDAYS)} ", ""))
    time = rng.choice((f" at {number(rng.randint(1, 12))} {rng.choice(('thirty', 'fifteen'))}", "", ""))
    return weekday + day + time


def _command(rng: random.Random) -> str:
    room, device = rng.choice(ROOMS), rng.choice(DEVICES)
    switch = f"{rng.choice(('turn', 'switch'))} {rng.choice(('on', 'off'))} the {room} {device}"
    door = f"{rng.choice(('open', 'close'))} the {room} {rng.choice(('door', 'window'))}"
    level = f"set the {room} {device} to {number(rng.randint(0, 39))}"
    play = f"{rng.choice(('play', 'stop'))} {rng.choice(('song', 'station', 'channel'))} {number(rng.randint(0, 39))}"
    return rng.choices((switch, door, level, play), weights=(3, 1, 2, 2))[0] + rng.choice((" please", "", ""))
