#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The test runner for device-exclusive memory.

Gets a kernel, puts the module and the tests into a copy of it, builds that,
boots it in QEMU, runs the tests and judges them. Each stage is a command of
its own; "run" does them all.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Optional

import devexcl_bench
import devexcl_build
import devexcl_check
import devexcl_html
import devexcl_judge
import devexcl_known
import devexcl_matrix
import devexcl_plan
import devexcl_qemu
import devexcl_report
import devexcl_selfcheck
import devexcl_source
import devexcl_tools
from devexcl_attempt import Attempt, read_record
from devexcl_background import Background
from devexcl_build import Image, Variant
from devexcl_collect import Collector
from devexcl_host import (CANNOT_RUN, FAILED, INTERRUPTED, OK, REPO, DevexclError, Timings, cache_dir, file_name,
			  forget_make, seconds, terminal, write_atomically)
from devexcl_matrix import Run
from devexcl_overlay import Overlay
from devexcl_plan import Limits
from devexcl_report import MATRIX_HTML, RESULTS_JSON
from devexcl_selfcheck import FOUND_JSON, Finding, SelfCheck

LOGS_KEPT = 20

# The program that is not of the suite, and what it may take besides its time, in seconds.
SOAK = 'soak'
SOAK_SLACK = 300

EPILOG = """exit codes: 0 as expected, 1 a test failed or an expectation is stale,
2 could not build or boot, 130 interrupted"""


class Session:
	"""One kernel to work on: which, how, where its results go, how long it took."""

	def __init__(self, args: argparse.Namespace, folder: Path) -> None:
		self.args = args
		self.folder = folder
		self.timings = Timings()
		self.limits: Optional[Limits] = None	# else as the tests say
		self.variant = Variant(builtin=args.builtin, debug=args.debug)
		folder.mkdir(parents=True, exist_ok=True)

	@property
	def log(self) -> Path:
		return self.folder / 'build.log'

	@property
	def options(self) -> str:
		"""What to give to this program for the same kernel."""
		args = self.args
		words = ['--ksrc', os.path.abspath(args.ksrc)] if args.ksrc else ['--kernel', args.kernel]
		words += ['--builtin'] * args.builtin + ['--debug'] * args.debug
		return ' '.join(shlex.quote(word) for word in words)

	@property
	def origin(self) -> str:
		"""What to give to make for the same kernel."""
		args = self.args
		words = [f'KSRC={os.path.abspath(args.ksrc)}' if args.ksrc else f'KERNEL={args.kernel}']
		words += ['BUILTIN=1'] * args.builtin + ['DEBUG=1'] * args.debug
		return ' '.join(shlex.quote(word) for word in words)

	def source(self) -> devexcl_source.Source:
		with self.timings.measure('fetch'):
			if self.args.ksrc:
				return devexcl_source.user_source(Path(self.args.ksrc))
			return devexcl_source.debian_source(self.args.kernel, self.log, self.args.update)

	def image(self) -> Image:
		with self.timings.measure('tools'):
			devexcl_tools.ensure(devexcl_tools.BUILD + devexcl_tools.BOOT, self.log)
		source = self.source()
		with self.timings.measure('build'):
			return devexcl_build.build(source, self.variant, self.log)

	def accelerator(self, image: Image) -> tuple[str, str]:
		return devexcl_qemu.pick_accelerator(image, self.folder)

	def collector(self, image: Image, **callbacks) -> Collector:
		args = self.args
		return Collector(image, self.accelerator(image), self.folder, limits=self.limits or Limits.of(image, args.timeout),
				 patterns=args.tests, cmdline=tuple(args.append),
				 subset=args.subset, guests=args.guests or devexcl_qemu.guests_at_once(), **callbacks)


def results_folder(args: argparse.Namespace, what: str) -> Path:
	"""A new folder results/<time>-<what>."""
	base = Path(args.results or REPO / 'results').absolute()
	stem = file_name(f'{time.strftime("%Y%m%d-%H%M%S")}-{what}')
	for number in itertools.count(1):
		folder = base / (stem if number == 1 else f'{stem}-{number}')
		try:
			folder.mkdir(parents=True)
			break
		except FileExistsError:
			continue
	return folder


def make_latest(folder: Path) -> None:
	"""Has results/latest point to a folder: one with results in it, not one that never got so far."""
	link = folder.parent / f'.latest-{os.getpid()}'
	link.symlink_to(folder.name)
	link.replace(folder.parent / 'latest')


def log_folder() -> Path:
	"""For commands that have no results but logs; the last few are kept."""
	base = cache_dir() / 'logs'
	folder = base / f'{time.strftime("%Y%m%d-%H%M%S")}-{os.getpid()}'
	folder.mkdir(parents=True, exist_ok=True)
	for old in sorted(base.iterdir())[:-LOGS_KEPT]:
		shutil.rmtree(old, ignore_errors=True)
	return folder


# ---- the commands ---------------------------------------------------------------------


def cmd_fetch(args: argparse.Namespace) -> int:
	source = Session(args, log_folder()).source()
	terminal.say(f'{source.identity}: {source.tree}')
	return OK


def cmd_configure(args: argparse.Namespace) -> int:
	session = Session(args, log_folder())
	devexcl_tools.ensure(devexcl_tools.BUILD, session.log)
	source = session.source()
	with source.lock():
		wanted = devexcl_build.recipe(source, session.variant)
		wanted.overlay.apply(source.tree)
		devexcl_build.configure(wanted, session.log)
	terminal.say(f'Configured: {wanted.folder}/.config')
	return OK


def cmd_build(args: argparse.Namespace) -> int:
	image = Session(args, log_folder()).image()
	terminal.say(f'Linux {image.manifest["release"]}: {image.kernel}')
	terminal.say(f'Tests: {image.tests}: {", ".join(image.programs) or "none"}')
	return OK


def cmd_boot(args: argparse.Namespace) -> int:
	session = Session(args, log_folder())
	image = session.image()
	accelerator = session.accelerator(image)
	start = time.monotonic()
	with devexcl_qemu.Guest(image, accelerator=accelerator, cmdline=args.append,
				console_log=session.folder / 'console-1.log') as guest:
		guest.wait_until_ready()
		ready = time.monotonic() - start
		guest.power_off()
	terminal.say(f'Linux {guest.hello}')
	terminal.say(f'Ready after {seconds(ready)}, off after {seconds(time.monotonic() - start)} ({accelerator[0]})')
	return OK


def cmd_list(args: argparse.Namespace) -> int:
	session = Session(args, log_folder())
	for job in session.collector(session.image()).list_jobs():
		terminal.say(job.name)
	return OK


def cmd_shell(args: argparse.Namespace) -> int:
	if not sys.stdin.isatty():
		raise DevexclError('A shell needs a terminal. Tests without one: devexcl.py run')
	session = Session(args, log_folder())
	devexcl_tools.ensure(devexcl_tools.SHELL, session.log)
	image = session.image()
	terminal.say('The tests are in the current folder. "exit" ends the guest.')
	return OK if devexcl_qemu.interactive(image, session.accelerator(image)) == 0 else CANNOT_RUN


def cmd_apply(args: argparse.Namespace) -> int:
	for name in Overlay.for_patches().apply(Path(args.tree).absolute(), record=False):
		terminal.say(name)
	return OK


def cmd_run(args: argparse.Namespace) -> int:
	suffix = ('-builtin' if args.builtin else '') + ('-debug' if args.debug else '')
	session = Session(args, results_folder(args, ('ksrc' if args.ksrc else args.kernel) + suffix))
	results, interrupted = run_tests(session, session.image())
	make_latest(session.folder)
	return INTERRUPTED if interrupted else exit_code(results)


class SoakImage(Image):
	"""An image of which only one program is run, which is not of the suite."""

	@property
	def programs(self) -> list[str]:
		return [SOAK]


def cmd_soak(args: argparse.Namespace) -> int:
	"""Everything at once, on a kernel that checks everything; then the module has to go, and nothing may be left."""
	seed = args.seed or time.time_ns()
	length = max(1, int(args.minutes * 60))
	args.append += [f'DEVEXCL_SECONDS={length}', f'DEVEXCL_SEED={seed}']
	args.tests = [SOAK, 'module.*']
	session = Session(args, results_folder(args, SOAK))
	session.limits = Limits(length + SOAK_SLACK, length + SOAK_SLACK)
	image = session.image()
	terminal.say(f'Soak: {args.minutes:g} min, seed {seed}. How it goes: {session.folder}/console-1.log')
	results, interrupted = run_tests(session, SoakImage(image.kernel, image.tests, image.init, image.manifest))
	for result in results:
		for line in result.details if result.program == SOAK and not result.bad else []:
			terminal.say(line)
	make_latest(session.folder)
	fast = '' if args.debug else ' DEBUG=0'
	terminal.say(f'Again:   make soak KERNEL={args.kernel} MINUTES={args.minutes:g} SEED={seed}{fast}')
	return INTERRUPTED if interrupted else exit_code(results)


def cmd_selfcheck(args: argparse.Namespace) -> int:
	session = Session(args, results_folder(args, 'selfcheck'))
	return run_selfcheck(session, session.image())[0]


def run_selfcheck(session: Session, image: Image) -> tuple[int, list[Finding]]:
	"""Which tests notice which broken driver."""
	modes = devexcl_selfcheck.read_modes(devexcl_selfcheck.HEADER.read_text(encoding='utf-8'))
	wanted = getattr(session.args, 'modes', [])
	modes = [mode for mode in modes if not wanted or mode.name in wanted]
	if not modes:
		raise DevexclError(f'There is no broken-driver mode {" ".join(wanted)}')
	check = SelfCheck(session.collector(image), modes, terminal.progress)
	try:
		found = check.check()
	finally:
		terminal.clear()
	devexcl_selfcheck.write_json(found, session.folder / FOUND_JSON)
	for line in devexcl_selfcheck.report(found, session.options, check.plain):
		terminal.say(line)
	return FAILED if any(finding.bad for finding in found) else OK, found


def cmd_bench(args: argparse.Namespace) -> int:
	"""How quick everything is; no figure is an error."""
	session = Session(args, results_folder(args, ('ksrc' if args.ksrc else args.kernel) + '-bench'))
	image = session.image()
	accelerator = session.accelerator(image)
	accelerator = accelerator[0], args.cpu or accelerator[1]
	samples = devexcl_bench.measure(image, accelerator, session.folder, rounds=args.rounds, figures=args.figures,
					most_pages=args.pages, cmdline=args.append)
	facts = {'accelerator': accelerator[0], 'cpu': accelerator[1], 'source': image.manifest['identity'],
		 'toolchain': image.manifest['toolchain']}
	devexcl_bench.report(samples, facts, session.folder)
	return OK


def cmd_judge(args: argparse.Namespace) -> int:
	"""The verdicts of a recorded run, made again."""
	folder = Path(args.folder)
	attempts = read_record(folder)
	facts = json.loads((folder / RESULTS_JSON).read_text(encoding='utf-8'))
	results = devexcl_judge.judge(attempts, known_bugs(args), facts['release'], facts.get('complete', False))
	timings = Timings()
	timings.spent = facts.pop('times')
	devexcl_report.print_summary(results, facts, timings, folder)
	return exit_code(results)


def cmd_matrix(args: argparse.Namespace) -> int:
	"""The matrix of earlier runs, as a page or as text."""
	matrix = devexcl_matrix.put_together(devexcl_matrix.find_runs(args.results))
	if args.text:
		for line in devexcl_matrix.all_as_text(matrix, terminal.width()):
			terminal.say(line)
		return OK
	path = Path(args.output)
	write_page(matrix, path)
	terminal.say(str(path.absolute()))
	return OK


def cmd_check(args: argparse.Namespace) -> int:
	"""All checks. One that cannot be run is a failed one, and the others go on."""
	table = devexcl_check.Table()
	folder = results_folder(args, 'check')
	runs: list[Run] = []
	try:
		devexcl_tools.ensure(devexcl_tools.BUILD + devexcl_tools.BOOT + devexcl_tools.CHECK, folder / 'tools.log')
		table.add(devexcl_check.unit_tests())
		checks = [SuiteCheck(args, suite, folder) for suite in devexcl_check.SUITES]
		with Background(check.prepare for check in checks) as background:
			for check in checks:
				check.run(background, table, runs)
		status = FAILED if table.total('failed') else OK
		if any(row.could_not_run for row in table.rows):
			status = CANNOT_RUN
	except KeyboardInterrupt:
		terminal.say('Interrupted. What follows is what was done so far.')
		status = INTERRUPTED
	matrix = devexcl_matrix.put_together(devexcl_matrix.in_order(runs))
	if matrix.subjects:
		write_page(matrix, folder / MATRIX_HTML)
		terminal.say(f'Picture: {folder / MATRIX_HTML}')
	devexcl_check.print_table(table)
	return status


class SuiteCheck:
	"""A kernel in a check of everything: built in the background, then tested."""

	def __init__(self, args: argparse.Namespace, suite: devexcl_check.Suite, folder: Path) -> None:
		self.suite = suite
		options = argparse.Namespace(**{**vars(args), 'kernel': suite.kernel, 'builtin': suite.builtin,
						'debug': suite.debug, 'subset': not suite.plain})
		self.session = Session(options, folder / suite.name)

	def prepare(self) -> tuple[Image, list[devexcl_check.Row]]:
		"""What can be done while another kernel is tested."""
		image = self.session.image()
		rows = []
		if self.suite.plain:
			source = self.session.source()
			rows.append(devexcl_check.warnings_of_tests(image))
			if self.suite.kernel == devexcl_check.CHECKPATCH_KERNEL:
				rows.append(devexcl_check.style(source))
			rows += devexcl_check.out_of_tree(source, self.session.folder)
		return image, rows

	def run(self, background: Background, table: devexcl_check.Table, runs: list[Run]) -> None:
		try:
			image, rows = background.get()
			for row in rows:
				table.add(row)
			start = time.monotonic()
			results, interrupted = run_tests(self.session, image)
			runs.append(devexcl_matrix.read_run(self.session.folder / RESULTS_JSON))
			table.add(devexcl_check.suite_row(self.suite.title, results, time.monotonic() - start))
			if interrupted:
				raise KeyboardInterrupt
			if self.suite.plain and self.suite.kernel == devexcl_check.SELFCHECK_KERNEL:
				self._selfcheck(image, table)
		except DevexclError as err:
			table.add(devexcl_check.failed_row(self.suite.title, err))


	def _selfcheck(self, image: Image, table: devexcl_check.Table) -> None:
		start = time.monotonic()
		session = Session(self.session.args, self.session.folder / 'selfcheck')
		found = run_selfcheck(session, image)[1]
		table.add(devexcl_check.selfcheck_row(self.suite.kernel, found, time.monotonic() - start))


def known_bugs(args: argparse.Namespace) -> list[devexcl_known.KnownBug]:
	return devexcl_known.read_known_bugs() if args.known else []


def exit_code(results: list[devexcl_judge.Result]) -> int:
	return FAILED if any(result.bad for result in results) else OK


def run_tests(session: Session, image: Image) -> tuple[list[devexcl_judge.Result], bool]:
	"""Boots, collects, judges and reports; the results, and whether that was interrupted."""
	bugs = known_bugs(session.args)
	progress = Progress(bugs)
	collector = session.collector(image, progress=progress.started, finished=progress.finished,
				      expected=lambda *test: devexcl_known.find_deadly(bugs, *test) is not None)
	interrupted = False
	start = time.monotonic()
	if session.variant.debug or session.args.subset:
		terminal.say(f'Tests: {devexcl_plan.SUBSET if session.args.subset else "all"}')
	try:
		collector.run()
	except KeyboardInterrupt:
		interrupted = True
		terminal.say('Interrupted: the guest has been stopped. What follows is the summary so far.')
	finally:
		terminal.clear()
	session.timings.spent['boot'] = collector.boot_seconds
	session.timings.spent['tests'] = time.monotonic() - start - collector.boot_seconds
	facts = {
		'origin': session.origin, 'release': collector.release, 'source': image.manifest['identity'],
		'variant': ('built in' if session.variant.builtin else 'module')
			   + (', debug' if session.variant.debug else ''),
		'accelerator': collector.accelerator[0], 'boots': collector.boots,
		'guests': len(collector.workers), 'cpu_seconds': round(collector.cpu_seconds, 2),
		'toolchain': image.manifest['toolchain'], 'interrupted': interrupted,
		'complete': collector.complete, 'subset': devexcl_plan.SUBSET if session.args.subset else '',
		 'excluded': collector.excluded, 'layouts': collector.layouts,
	}
	results = devexcl_judge.judge(collector.attempts, bugs, collector.release, collector.complete)
	devexcl_report.write_all(results, facts, session.timings, session.folder)
	matrix = devexcl_matrix.put_together([Run({**facts, 'times': session.timings.spent}, results)])
	if matrix.subjects:
		write_page(matrix, session.folder / MATRIX_HTML)
	devexcl_report.print_summary(results, facts, session.timings, session.folder,
				     devexcl_matrix.as_text(matrix, 0, terminal.width(), short=True))
	return results, interrupted


def write_page(matrix: devexcl_matrix.Matrix, path: Path) -> None:
	write_atomically(path, devexcl_html.page(matrix))


class Progress:
	"""Shows how far the tests are."""

	def __init__(self, bugs: list[devexcl_known.KnownBug]) -> None:
		self.bugs = bugs
		self.start = time.monotonic()
		self.verdicts: dict[str, str] = {}
		self.tally: collections.Counter = collections.Counter()
		self.release = ''

	def started(self, collector: Collector, names: str) -> None:
		self.release = collector.release
		terminal.progress(f'{collector.release}  {collector.position}/{collector.total}  '
				  f'{seconds(time.monotonic() - self.start)}  {devexcl_report.counts_text(self.tally)}  {names}')

	def finished(self, attempt: Attempt) -> None:
		results = devexcl_judge.judge_attempt(attempt)
		devexcl_judge.apply_known_bugs(results, self.bugs, self.release)
		for result in results:
			self.tally[self.verdicts.get(result.name)] -= 1
			self.tally[result.verdict] += 1
			self.verdicts[result.name] = result.verdict
			if terminal.verbose or result.bad:
				terminal.say(devexcl_report.verdict_line(result))
			if terminal.verbose:
				for line in result.details:
					terminal.say('       | ' + line)


# ---- the command line ------------------------------------------------------------------


def add_common(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--kernel', default=devexcl_source.DEFAULT_KERNEL, metavar='VERSION',
			    help='6.1, 6.12, 7.3, ... or latest, from linux-source-<version> (default: %(default)s)')
	parser.add_argument('--ksrc', metavar='DIR', help='a kernel tree of your own, which is only read')
	parser.add_argument('--update', action='store_true', help='ask for a newer package version now')
	parser.add_argument('--builtin', action='store_true', help='the device built in, instead of as a module')
	parser.add_argument('--debug', action='store_true', help='with KASAN, lockdep, kmemleak, ... (slow)')
	add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('-v', '--verbose', action='store_true', help='show everything')


def add_judge(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--no-known', dest='known', action='store_false',
			    help='a known kernel bug is a failure like any other')


def add_results(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--results', metavar='DIR', help='where folders of results go (default: results)')


def add_guest(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--append', action='append', default=[], metavar='WORD',
			    help='a word for the kernel command line, such as test_devexcl.ndevices=4')
	parser.add_argument('--tests', type=str.split, default=[], metavar='GLOBS',
			    help="only tests that match, for example 'fork*' or 'abi.* atomic.add'")
	parser.add_argument('--subset', action='store_true', help=f'for slow kernels: {devexcl_plan.SUBSET}')
	parser.add_argument('--guests', type=int, metavar='N',
			    help='so many guests side by side (default: as many as this machine can have)')
	parser.add_argument('--timeout', type=float, metavar='SECONDS', help='limit for each test (default: 60)')


def make_parser() -> argparse.ArgumentParser:
	parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
					 formatter_class=argparse.RawDescriptionHelpFormatter)
	commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

	def add(name: str, function, text: str, *adders) -> argparse.ArgumentParser:
		command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
		command.set_defaults(function=function)
		for adder in adders:
			adder(command)
		return command

	add('run', cmd_run, 'All stages: fetch, configure, build, boot, collect, judge.',
	    add_common, add_guest, add_judge, add_results)
	check = add('check', cmd_check, 'All checks of the project, and the tests on all kernels.', add_verbose, add_results)
	check.set_defaults(**{**vars(commands.choices['run'].parse_args([])), 'function': cmd_check})
	soak = add('soak', cmd_soak, 'Everything at once for as long as you like, on a kernel that checks everything.',
		   add_common, add_guest, add_judge, add_results)
	soak.add_argument('--minutes', type=float, default=10, metavar='N', help='how long (default: 10)')
	soak.add_argument('--seed', type=int, metavar='N', help='have each thread do again what it did with this seed')
	selfcheck = add('selfcheck', cmd_selfcheck, 'Which tests notice a broken driver? Fails if nobody notices one.',
			add_common, add_guest, add_results)
	selfcheck.add_argument('--modes', type=str.split, default=[], metavar='NAMES',
			       help="only these, for example 'NO_RETRY NO_DIRTY'")
	bench = add('bench', cmd_bench, 'Measure how quick the device is, beside the peer test_hmm and the kernel alone.',
		    add_common, add_results)
	bench.add_argument('--rounds', type=int, default=devexcl_bench.FEWEST_ROUNDS, metavar='N',
			   help='measure everything so often (default: %(default)s)')
	bench.add_argument('--pages', type=int, metavar='N', help='no figure with more pages than that (default: 262144)')
	bench.add_argument('--figures', type=str.split, default=[], metavar='NAMES',
			   help=f'only some of: {" ".join(devexcl_bench.FIGURES)}')
	bench.add_argument('--cpu', metavar='MODEL', help='a CPU model of QEMU, such as max,-cx16')
	bench.add_argument('--append', action='append', default=[], metavar='WORD',
			   help='a word for the kernel command line')
	add('fetch', cmd_fetch, 'Get kernel sources into the cache.', add_common)
	add('configure', cmd_configure, 'Apply the overlay, configure, and verify the options.', add_common)
	add('build', cmd_build, 'Build kernel, module and tests.', add_common)
	add('boot', cmd_boot, 'Boot once and power off: does the guest come up?', add_common, add_guest)
	add('list', cmd_list, 'List all tests.', add_common, add_guest)
	add('shell', cmd_shell, 'A shell in the guest, with the module loaded.', add_common)
	judge = add('judge', cmd_judge, 'Judge a recorded run again, for example after a change of known-bugs.txt.',
		    add_judge)
	judge.add_argument('folder', help='the folder of results, such as results/latest')
	matrix = add('matrix', cmd_matrix, 'The matrix of recorded runs, kernels side by side: a page of HTML, or text.')
	matrix.add_argument('-o', '--output', default=MATRIX_HTML, metavar='FILE', help='where to (default: %(default)s)')
	matrix.add_argument('--text', action='store_true', help='to the terminal, one letter a cell')
	matrix.add_argument('results', nargs='+', metavar='RESULTS', help='folders of results, also those of "check"')
	apply = add('apply', cmd_apply, 'Put the overlay into a kernel tree of yours, to make patches from it.')
	apply.add_argument('tree', metavar='DIR', help='the kernel tree; it is changed')
	return parser


def main(argv: Optional[list[str]] = None) -> int:
	args = make_parser().parse_args(argv)
	terminal.verbose = getattr(args, 'verbose', False)
	forget_make()
	signal.signal(signal.SIGTERM, signal.default_int_handler)
	signal.signal(signal.SIGHUP, signal.default_int_handler)
	try:
		return args.function(args)
	except DevexclError as err:
		terminal.clear()
		print(f'devexcl: {err}', file=sys.stderr)
		return CANNOT_RUN
	except KeyboardInterrupt:
		terminal.clear()
		print('devexcl: interrupted; what was finished is kept in the cache', file=sys.stderr)
		return INTERRUPTED
	except Exception:	# pylint: disable=broad-except
		# A bug in here must not look like a failed test.
		terminal.clear()
		traceback.print_exc()
		return CANNOT_RUN


if __name__ == '__main__':
	sys.exit(main())
