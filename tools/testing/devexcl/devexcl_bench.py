# SPDX-License-Identifier: GPL-2.0
"""Speed: has devexcl_bench run in a guest, and makes tables, JSON and plots of what it measures.

The guest's program prints an object of JSON a line (described at its top) and
judges nothing. All that is said about figures and ratios is said here.

bench.json, which is for machines, is one object:

    schema	SCHEMA
    machine	release, cpus, page_size, devices, rounds; accelerator, cpu (QEMU's model), source, toolchain
    figures	{figure: {title, unit, series: {series: {x: {median, low, high, rounds: [value, ...]}}}}}
    skipped	[{figure, series, x, why}, ...]
    ratios	[{name, value, low, high, and at_most or at_least, reached: if there is a target}, ...]

Numbers are in the figure's unit; a ratio is the median, and low and high the
extremes, of what it was in each round.
"""

from __future__ import annotations

import collections
import html
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence

from devexcl_build import Image
from devexcl_host import DevexclError, seconds, terminal, write_atomically
from devexcl_qemu import Guest, unescape

PROGRAM = 'devexcl_bench'
SCHEMA = 1
BENCH_JSON, BENCH_HTML, BENCH_LOG = 'bench.json', 'bench.html', 'bench.jsonl'

DEVICES = 4
CMDLINE = (f'test_devexcl.ndevices={DEVICES}', 'numa_balancing=disable')
# From one measurement to the next, on a slow machine that is busy.
SILENCE_SECONDS = 300
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Figure:
	"""What is measured, and what the numbers below the plot are."""

	title: str
	x: str


FIGURES = {
	'acquire-base': Figure('Acquire base pages', 'pages in a call'),
	'acquire-thp': Figure('Acquire pages of large folios', 'pages in a call'),
	'revoke': Figure('Touch by the CPU: an exclusive page, and two kinds of ordinary minor faults', 'pages'),
	'munmap': Figure('munmap() of exclusive pages, and of ordinary ones', 'pages'),
	'fork': Figure('fork() with exclusive pages, and with ordinary ones', 'pages'),
	'atomics': Figure('Operations on held pages', 'operations in a call'),
	'handover': Figure('A page goes to and fro', 'pages'),
	'engines': Figure('Engines of one context on pages of their own', 'engines'),
	'devices': Figure('Devices that acquire pages of their own', 'devices'),
	'mirrors': Figure('Acquire in one of many mirrors', 'mirrors'),
	'memory': Figure('Memory of the device page table', 'pages'),
}


# Each round begins with another one; we do not.
SERIES = ('ours', 'floor', 'test_hmm', 'exclusive', 'ordinary')

# ---- what was measured ------------------------------------------------------------------


Key = tuple[str, str, int]	# figure, series, x


class Samples:
	"""Everything that the guest has printed."""

	def __init__(self) -> None:
		self.machine: dict = {}
		self.units: dict[str, str] = {}
		self.values: dict[Key, dict[int, float]] = collections.defaultdict(dict)
		self.skipped: dict[Key, str] = {}

	def feed(self, line: str) -> Optional[dict]:
		"""Takes a line of the guest's; None if it is not one of measurements."""
		try:
			record = json.loads(line)
			if 'machine' in record:
				self.machine = record['machine']
				return record
			key = record['figure'], record['series'], record['x']
			if 'skip' in record:
				self.skipped[key] = record['skip']
			else:
				self.values[key][record['round']] = record['value']
				self.units[record['figure']] = record['unit']
		except (ValueError, KeyError, TypeError):
			return None
		return record

	def figures(self) -> list[str]:
		"""In the order in which they are told of."""
		return [name for name in FIGURES if name in self.units]

	def series(self, figure: str) -> list[str]:
		names = dict.fromkeys(key[1] for key in self.values if key[0] == figure)
		return sorted(names, key=lambda name: SERIES.index(name) if name in SERIES else len(SERIES))

	def xs(self, figure: str) -> list[int]:
		return sorted({key[2] for key in self.values if key[0] == figure})

	def spread(self, *key) -> Optional['Spread']:
		values = list(self.values.get(key, {}).values())
		return Spread.of(values) if values else None

	def ratios(self, above: Key, below: Key) -> list[float]:
		"""One for each round that has both."""
		first, second = self.values.get(above, {}), self.values.get(below, {})
		return [first[number] / second[number] for number in sorted(first) if second.get(number)]


@dataclass(frozen=True)
class Spread:
	"""The middle of some numbers, and their extremes."""

	median: float
	low: float
	high: float

	@staticmethod
	def of(values: Sequence[float]) -> 'Spread':
		return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Ratio:
	"""Something that has a target, or that shows what bounds one."""

	name: str
	spread: Spread
	at_most: Optional[float] = None
	at_least: Optional[float] = None

	@property
	def reached(self) -> bool:
		value = self.spread.median
		return ((self.at_most is None or value <= self.at_most)
			and (self.at_least is None or value >= self.at_least))

	@property
	def has_target(self) -> bool:
		return self.at_most is not None or self.at_least is not None

	@property
	def target(self) -> str:
		if not self.has_target:
			return '-'
		return f'at most {self.at_most:g}' if self.at_most is not None else f'at least {self.at_least:g}'


# ---- what is to be reached ------------------------------------------------------------------

FLOOR_TARGET, PEER_TARGET, MANY_PAGES = 1.25, 4.0, 4096
CONSTANT_TARGET, CONSTANT_FROM = 1.15, 512
BATCH_TARGET, ENGINES_TARGET, MEMORY_TARGET = 20.0, 1.6, 16.0


def judge(samples: Samples) -> list[Ratio]:
	return [*_acquire_ratios(samples), *_constant_ratio(samples), *_other_ratios(samples)]


def _acquire_ratios(samples: Samples) -> Iterator[Ratio]:
	for figure, kind in (('acquire-base', 'base pages'), ('acquire-thp', 'pages of large folios')):
		for x in samples.xs(figure):
			if x < MANY_PAGES:
				continue
			values = samples.ratios((figure, 'ours', x), (figure, 'floor', x))
			if values:
				yield Ratio(f'acquire {x} {kind}: ours / floor', Spread.of(values), at_most=FLOOR_TARGET)
			values = samples.ratios((figure, 'test_hmm', x), (figure, 'ours', x))
			if values:
				yield Ratio(f'acquire {x} {kind}: test_hmm / ours', Spread.of(values), at_least=PEER_TARGET)
			values = samples.ratios((figure, 'test_hmm', x), (figure, 'floor', x))
			if values:
				yield Ratio(f'acquire {x} {kind}: test_hmm / floor', Spread.of(values))


def _constant_ratio(samples: Samples) -> Iterator[Ratio]:
	"""How much more a page costs where it costs most, than where it costs least."""
	xs = [x for x in samples.xs('acquire-base') if x >= CONSTANT_FROM]
	for series, name, target in (('ours', '', CONSTANT_TARGET), ('floor', ', floor', None)):
		spreads = [spread for spread in (samples.spread('acquire-base', series, x) for x in xs) if spread]
		if len(spreads) > 1:
			value = max(spread.median for spread in spreads) / min(spread.median for spread in spreads)
			yield Ratio(f'acquire {xs[0]} to {xs[-1]} base pages: dearest / cheapest page{name}',
				    Spread(value, value, value), at_most=target)


def _other_ratios(samples: Samples) -> Iterator[Ratio]:
	calls = [x for x in samples.xs('atomics') if ('atomics', 'ioctl', x) in samples.values]
	if len(calls) > 1:
		values = samples.ratios(('atomics', 'ioctl', calls[-1]), ('atomics', 'ioctl', calls[0]))
		yield Ratio(f'operations a second: {calls[-1]} in a call / one in a call', Spread.of(values),
			    at_least=BATCH_TARGET)
	for series, name, target in (('ops', 'engines / one', ENGINES_TARGET), ('threads', 'threads without a device / one', None)):
		values = samples.ratios(('engines', series, 2), ('engines', series, 1))
		if values and samples.machine.get('cpus', 1) > 1:
			yield Ratio(f'operations a second: two {name}', Spread.of(values), at_least=target)
	values = [value for key, rounds in samples.values.items() if key[0] == 'memory' for value in rounds.values()]
	if values:
		most = max(values)
		yield Ratio('device memory, bytes a mirrored page', Spread(most, min(values), most), at_most=MEMORY_TARGET)


# ---- running ----------------------------------------------------------------------------------


def measure(image: Image, accelerator: tuple[str, str], folder: Path, *, rounds: int, figures: Sequence[str] = (),
	    most_pages: Optional[int] = None, cmdline: Sequence[str] = ()) -> Samples:
	"""Boots a guest, has everything measured in it, and writes down what it says."""
	samples = Samples()
	words = [PROGRAM, '-r', str(rounds), *(['-p', str(most_pages)] if most_pages else []), *figures]
	start = time.monotonic()
	with Guest(image, accelerator=accelerator, cmdline=[*CMDLINE, *cmdline],
		   console_log=folder / 'console-1.log') as guest, (folder / BENCH_LOG).open('w', encoding='utf-8') as log:
		guest.wait_until_ready()
		guest.send('batch', '1', str(SILENCE_SECONDS * 1000), 'bench', *words)
		said: list[str] = []
		while True:
			event = guest.next_event(SILENCE_SECONDS + 30)
			if event.kind in ('gone', 'silence'):
				raise DevexclError(f'The guest did not survive the benchmark ({event.kind}); its console: '
						   f'{folder / "console-1.log"}')
			word, _, rest = event.text.partition(' ')
			if event.kind != 'channel' or word not in ('out', 'end'):
				continue
			text = unescape(rest.partition(' ')[2])
			if word == 'end':
				break
			log.write(text + '\n')
			record = samples.feed(text)
			if record is None:
				said.append(text)
			elif 'round' in record:
				terminal.progress(f'{samples.machine.get("release", "")}  round {record["round"] + 1}/{rounds}  '
						  f'{seconds(time.monotonic() - start)}  {record["figure"]}')
		guest.power_off()
	terminal.clear()
	for line in said:
		terminal.warn(line)
	if not text.startswith('exit 0 '):
		raise DevexclError(f'{PROGRAM} ended with {text}, see {folder / BENCH_LOG}')
	return samples


# ---- for people ---------------------------------------------------------------------------------


def number(value: float) -> str:
	"""Three digits that count, and no exponent that nobody reads."""
	if value >= 1000:
		return f'{value:,.0f}'
	digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
	return f'{value:.{max(0, min(3, digits))}f}'


def as_text(samples: Samples) -> list[str]:
	lines: list[str] = []
	for name in samples.figures():
		lines += ['', f'{FIGURES[name].title}, {samples.units[name]}: median (lowest to highest)']
		series = samples.series(name)
		table = [[FIGURES[name].x, *series]]
		for x in samples.xs(name):
			table.append([str(x), *(_cell(samples, name, one, x) for one in series)])
		lines += columns(table)
	return lines


def _cell(samples: Samples, figure: str, series: str, x: int) -> str:
	spread = samples.spread(figure, series, x)
	if spread:
		return f'{number(spread.median)} ({number(spread.low)} to {number(spread.high)})'
	return 'not possible' if (figure, series, x) in samples.skipped else '-'


def columns(table: Sequence[Sequence[str]]) -> list[str]:
	"""The first column to the left, numbers to the right."""
	widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
	return ['  ' + '  '.join(text.ljust(width) if not i else text.rjust(width)
				 for i, (text, width) in enumerate(zip(row, widths))).rstrip() for row in table]


def ratios_as_text(ratios: Sequence[Ratio]) -> list[str]:
	table = [['Ratio', 'median', 'lowest to highest', 'target', '']]
	for ratio in ratios:
		spread = ratio.spread
		table.append([ratio.name, f'{spread.median:.2f}', f'{spread.low:.2f} to {spread.high:.2f}', ratio.target,
			      '' if not ratio.has_target else 'reached' if ratio.reached else 'NOT reached'])
	return columns(table)


# ---- for machines ---------------------------------------------------------------------------------


def as_json(samples: Samples, ratios: Sequence[Ratio], facts: Mapping[str, str]) -> dict:
	figures: dict = {}
	for (figure, series, x), rounds in samples.values.items():
		spread = Spread.of(list(rounds.values()))
		entry = figures.setdefault(figure, {'title': FIGURES[figure].title if figure in FIGURES else figure,
						    'unit': samples.units[figure], 'series': {}})
		entry['series'].setdefault(series, {})[str(x)] = {
			'median': spread.median, 'low': spread.low, 'high': spread.high,
			'rounds': [rounds[key] for key in sorted(rounds)]}
	return {
		'schema': SCHEMA, 'machine': {**samples.machine, **facts}, 'figures': figures,
		'skipped': [{'figure': figure, 'series': series, 'x': x, 'why': why}
			    for (figure, series, x), why in samples.skipped.items()],
		'ratios': [{'name': ratio.name, 'value': ratio.spread.median, 'low': ratio.spread.low,
			    'high': ratio.spread.high,
			    **({'at_most': ratio.at_most} if ratio.at_most is not None else {}),
			    **({'at_least': ratio.at_least} if ratio.at_least is not None else {}),
			    **({'reached': ratio.reached} if ratio.has_target else {})} for ratio in ratios],
	}


# ---- plots ------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 74, 150, 58, 46
SVG_STYLE = '''
	text { font: 12px system-ui, sans-serif; fill: #1f2328; }
	.title { font-size: 14px; font-weight: 600; }
	.faint { fill: #6b7280; }
	.page { fill: #fbfbfa; }
	.grid { stroke: #dfe1e5; stroke-width: 1; }
	.s0 { stroke: #0b5cad; fill: #0b5cad; } .s1 { stroke: #1a7f37; fill: #1a7f37; }
	.s2 { stroke: #c2410c; fill: #c2410c; } .s3 { stroke: #8250df; fill: #8250df; }
	.line { fill: none; stroke-width: 2; }
	@media (prefers-color-scheme: dark) {
		text { fill: #dfe3e8; } .faint { fill: #8d96a0; } .page { fill: #14171a; } .grid { stroke: #30363d; }
		.s0 { stroke: #6cb2ff; fill: #6cb2ff; } .s1 { stroke: #7fd79b; fill: #7fd79b; }
		.s2 { stroke: #ff9b6a; fill: #ff9b6a; } .s3 { stroke: #c8a2ff; fill: #c8a2ff; }
		.line { fill: none; }
	}
'''


def ticks(low: float, high: float) -> list[float]:
	"""Round numbers on a logarithmic axis that hold all there is between them."""
	steps = (1, 2, 5) if high / low < 500 else (1,)
	marks = [step * 10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
		 for step in steps]
	below = max((mark for mark in marks if mark <= low * 1.0001), default=marks[0])
	above = min((mark for mark in marks if mark >= high * 0.9999), default=marks[-1])
	if below == above:
		above = marks[marks.index(above) + 1] if above != marks[-1] else above * 10
	return [mark for mark in marks if below <= mark <= above]


def scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
	"""Places on a logarithmic axis."""
	span = math.log(high / low) or 1.0
	return lambda value: first + (last - first) * math.log(value / low) / span


def short(value: float) -> str:
	for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
		if value >= size:
			return f'{value / size:g}{letter}'
	return f'{value:g}'


def plot(samples: Samples, figure: str) -> str:
	"""A figure as SVG: both axes logarithmic, medians joined, a bar from the lowest to the highest."""
	xs, names = samples.xs(figure), samples.series(figure)
	points = {name: [(x, spread) for x in xs if (spread := samples.spread(figure, name, x))] for name in names}
	spreads = [spread for line in points.values() for _, spread in line]
	marks = ticks(min(spread.low for spread in spreads), max(spread.high for spread in spreads))
	place_x = scale(xs[0], xs[-1], LEFT + 10, WIDTH - RIGHT - 10)
	place_y = scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
	out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
	       f'role="img" aria-label="{_text(FIGURES[figure].title)}">', f'<style>{SVG_STYLE}</style>',
	       f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
	       f'<text class="title" x="12" y="20">{_text(FIGURES[figure].title)}</text>',
	       f'<text class="faint" x="12" y="{TOP - 20}">{_text(samples.units[figure])}</text>',
	       f'<text class="faint" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">'
	       f'{_text(FIGURES[figure].x)}</text>']
	for mark in marks:
		y = place_y(mark)
		out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
			   f'<text text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{short(mark)}</text>')
	for x in _apart(xs, place_x):
		out.append(f'<text text-anchor="middle" x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}">{x}</text>')
	for i, name in enumerate(names):
		out += _curve(points[name], f's{i % 4}', place_x, place_y)
		y = TOP + 14 + 20 * i
		out.append(f'<circle class="s{i % 4}" cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" r="4"/>'
			   f'<text x="{WIDTH - RIGHT + 26}" y="{y}">{_text(name)}</text>')
	return '\n'.join(out) + '\n</svg>\n'


def _curve(points: list[tuple[int, Spread]], style: str, place_x: Callable[[float], float],
	   place_y: Callable[[float], float]) -> list[str]:
	path = ' '.join(f'{place_x(x):.1f},{place_y(spread.median):.1f}' for x, spread in points)
	out = [f'<polyline class="line {style}" style="fill: none" points="{path}"/>']
	for x, spread in points:
		out.append(f'<line class="{style}" x1="{place_x(x):.1f}" x2="{place_x(x):.1f}" y1="{place_y(spread.low):.1f}" '
			   f'y2="{place_y(spread.high):.1f}"/>'
			   f'<circle class="{style}" cx="{place_x(x):.1f}" cy="{place_y(spread.median):.1f}" r="3.5"/>')
	return out


def _apart(xs: list[int], place: Callable[[float], float]) -> list[int]:
	"""Those whose labels do not touch; the last one has precedence."""
	kept: list[int] = []
	for x in reversed(xs):
		if not kept or place(kept[-1]) - place(x) > 48:
			kept.append(x)
	return kept


def _text(text: object) -> str:
	return html.escape(str(text), quote=True)


PAGE_STYLE = '''
	:root { color-scheme: light dark; }
	body { font: 14px/1.5 system-ui, sans-serif; margin: 20px; }
	pre { font: 12px/1.4 ui-monospace, monospace; }
	img { max-width: 100%; margin: 0 12px 12px 0; }
'''


def page(samples: Samples, ratios: Sequence[Ratio], plots: Sequence[str], headline: str) -> str:
	images = ''.join(f'<img src="{_text(name)}" alt="{_text(name)}">' for name in plots)
	text = '\n'.join(ratios_as_text(ratios) + as_text(samples))
	return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>devexcl: speed</title>\n'
		f'<style>{PAGE_STYLE}</style>\n</head>\n<body>\n<h1>{_text(headline)}</h1>\n{images}\n<pre>{_text(text)}</pre>\n'
		'</body>\n</html>\n')


# ---- all of it ----------------------------------------------------------------------------------------


def write_all(samples: Samples, ratios: Sequence[Ratio], facts: Mapping[str, str], folder: Path, headline: str) -> None:
	write_atomically(folder / BENCH_JSON, json.dumps(as_json(samples, ratios, facts), indent=1))
	plots = []
	for figure in samples.figures():
		if len(samples.xs(figure)) > 1:
			plots.append(f'bench-{figure}.svg')
			write_atomically(folder / plots[-1], plot(samples, figure))
	write_atomically(folder / BENCH_HTML, page(samples, ratios, plots, headline))


def report(samples: Samples, facts: Mapping[str, str], folder: Path) -> None:
	ratios = judge(samples)
	rounds = samples.machine.get('rounds', 0)
	headline = (f'Linux {samples.machine.get("release", "?")} ({facts["accelerator"]}), {samples.machine.get("cpus", "?")} CPUs, '
		    f'{rounds} rounds')
	write_all(samples, ratios, facts, folder, headline)
	for line in as_text(samples):
		terminal.say(line)
	for (figure, series, x), why in samples.skipped.items():
		terminal.say(f'Not possible: {figure}, {series}, {x}: {why}')
	terminal.say()
	for line in ratios_as_text(ratios):
		terminal.say(line)
	terminal.say()
	if rounds < FEWEST_ROUNDS:
		terminal.warn(f'{rounds} rounds are too few to rely on: take {FEWEST_ROUNDS}')
	targets = [ratio for ratio in ratios if ratio.has_target]
	missed = sum(not ratio.reached for ratio in targets)
	verdict = f'{missed} of {len(targets)} targets NOT reached' if missed else f'all {len(targets)} targets reached'
	terminal.say(f'{headline}: {verdict}')
	terminal.say(f'Results: {folder}: {BENCH_HTML} (plots and tables), {BENCH_JSON}')
