#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The test runner for device-exclusive memory.

Gets a kernel, puts the module and the tests into a copy of it, builds that,
boots it in QEMU, runs the tests and judges them. Each stage is a command of
its own; "run" does them all.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Optional

import devexcl_build
import devexcl_judge
import devexcl_overlay
import devexcl_qemu
import devexcl_report
import devexcl_source
from devexcl_build import Image, Variant
from devexcl_collect import Attempt, Collector, Job, Limits
from devexcl_host import (CANNOT_RUN, FAILED, INTERRUPTED, OK, REPO, DevexclError, Timings, file_name,
			  seconds, terminal)

EPILOG = """exit codes: 0 as expected, 1 a test failed or an expectation is stale,
2 could not build or boot, 130 interrupted"""


class Session:
	"""One invocation: what is to be done, where its results go, how long it took."""

	def __init__(self, args: argparse.Namespace) -> None:
		self.args = args
		self.timings = Timings()
		self.variant = Variant(builtin=args.builtin, debug=args.debug)
		self.folder = self._new_folder()

	def _new_folder(self) -> Path:
		"""results/<time>-<kernel>, and results/latest that points to it."""
		args = self.args
		what = 'ksrc' if args.ksrc else args.kernel
		base = Path(args.results or REPO / 'results').absolute()
		folder = base / file_name(f'{time.strftime("%Y%m%d-%H%M%S")}-{what}{self.variant.suffix}')
		while folder.exists():
			folder = folder.with_name(folder.name + '+')
		folder.mkdir(parents=True)
		link = base / f'.latest-{os.getpid()}'
		link.symlink_to(folder.name)
		link.replace(base / 'latest')
		return folder

	@property
	def log(self) -> Path:
		return self.folder / 'build.log'

	def source(self) -> devexcl_source.Source:
		with self.timings.measure('fetch'):
			if self.args.ksrc:
				return devexcl_source.user_source(Path(self.args.ksrc))
			return devexcl_source.debian_source(self.args.kernel, self.log, self.args.update)

	def image(self) -> Image:
		source = self.source()
		with self.timings.measure('build'):
			return devexcl_build.build(source, self.variant, self.log)

	def accelerator(self, image: Image) -> tuple[str, str]:
		with self.timings.measure('probe'):
			return devexcl_qemu.pick_accelerator(image, self.folder)

	def collector(self, image: Image, **callbacks) -> Collector:
		return Collector(image, self.accelerator(image), self.folder,
				 limits=Limits.of(image, self.args.timeout), patterns=self.args.tests,
				 channel=self.args.channel, cmdline=tuple(self.args.append), **callbacks)


# ---- the commands ---------------------------------------------------------------------


def cmd_fetch(args: argparse.Namespace) -> int:
	session = Session(args)
	source = session.source()
	terminal.say(f'{source.identity}: {source.tree}')
	return OK


def cmd_configure(args: argparse.Namespace) -> int:
	session = Session(args)
	source = session.source()
	with source.lock():
		devexcl_overlay.apply(source.tree)
		for text in devexcl_build.configure(source, session.variant, session.log):
			terminal.say(f'This kernel goes without {text}')
	terminal.say(f'Configured: {devexcl_build.build_folder(source, session.variant)}/.config')
	return OK


def cmd_build(args: argparse.Namespace) -> int:
	session = Session(args)
	image = session.image()
	terminal.say(f'Kernel {image.manifest["release"]}: {image.kernel}')
	terminal.say(f'Tests: {image.tests}: {", ".join(image.programs) or "none"}')
	return OK


def cmd_boot(args: argparse.Namespace) -> int:
	session = Session(args)
	image = session.image()
	accelerator = session.accelerator(image)
	start = time.monotonic()
	with devexcl_qemu.Guest(image, accelerator=accelerator, cmdline=args.append, channel=args.channel,
				console_log=session.folder / 'console-1.log') as guest:
		guest.wait_until_ready()
		ready = time.monotonic() - start
		guest.power_off()
	terminal.say(f'Linux {guest.hello}')
	terminal.say(f'Ready after {seconds(ready)}, off after {seconds(time.monotonic() - start)} ({accelerator[0]})')
	return OK


def cmd_list(args: argparse.Namespace) -> int:
	session = Session(args)
	for job in session.collector(session.image()).list_jobs():
		terminal.say(job.name)
	return OK


def cmd_shell(args: argparse.Namespace) -> int:
	session = Session(args)
	image = session.image()
	return devexcl_qemu.interactive(image, session.accelerator(image))


def cmd_run(args: argparse.Namespace) -> int:
	session = Session(args)
	return run_tests(session, session.image())


def run_tests(session: Session, image: Image) -> int:
	"""Boots, collects, judges and reports."""
	bugs = devexcl_judge.read_known_bugs() if session.args.known else []
	progress = Progress(bugs)
	collector = session.collector(image, progress=progress.started, finished=progress.finished)
	interrupted = False
	try:
		with session.timings.measure('tests'):
			collector.run()
	except KeyboardInterrupt:
		interrupted = True
		terminal.say('Interrupted: the guest has been stopped. What follows is the summary so far.')
	finally:
		terminal.clear()
	session.timings.spent['boot'] = collector.boot_seconds
	session.timings.spent['tests'] -= collector.boot_seconds
	facts = {
		'origin': session.args.ksrc and f'KSRC={session.args.ksrc}' or f'KERNEL={session.args.kernel}',
		'release': collector.release, 'source': image.manifest['identity'],
		'variant': ('built in' if session.variant.builtin else 'module')
			   + (', debug' if session.variant.debug else ''),
		'accelerator': collector.accelerator[0], 'boots': collector.boots,
		'toolchain': image.manifest['toolchain'], 'interrupted': interrupted,
	}
	results = devexcl_judge.judge(collector.attempts, bugs, collector.release)
	devexcl_report.write_all(results, facts, session.timings, session.folder)
	devexcl_report.print_summary(results, facts, session.timings, session.folder)
	if interrupted:
		return INTERRUPTED
	return OK if devexcl_report.exit_ok(results) else FAILED


class Progress:
	"""Shows how far the tests are."""

	def __init__(self, bugs: list) -> None:
		self.bugs = bugs
		self.start = time.monotonic()
		self.results: list = []
		self.program = ''

	def started(self, collector: Collector, job: Job) -> None:
		terminal.progress(f'{collector.release}  {collector.done + 1}/{collector.total}  {job.name}  '
				  f'{seconds(time.monotonic() - self.start)}  {devexcl_report.counts_line(self.results)}')

	def finished(self, attempt: Attempt) -> None:
		for result in devexcl_judge.judge([attempt], self.bugs, ''):
			self.results.append(result)
			if terminal.verbose:
				terminal.say(devexcl_report.verdict_line(result))
				for line in result.details:
					terminal.say('       | ' + line)
			elif result.bad:
				terminal.say(devexcl_report.verdict_line(result))


# ---- the command line ------------------------------------------------------------------


def add_common(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--kernel', default=devexcl_source.DEFAULT_KERNEL, metavar='VERSION',
			    help='6.1, 6.12, 7.3, ... or latest, from linux-source-<version> (default: %(default)s)')
	parser.add_argument('--ksrc', metavar='DIR', help='a kernel tree of your own, which is only read')
	parser.add_argument('--update', action='store_true', help='ask for a newer package version now')
	parser.add_argument('--builtin', action='store_true', help='the device built in, instead of as a module')
	parser.add_argument('--debug', action='store_true', help='with KASAN, lockdep, kmemleak, ... (slow)')
	parser.add_argument('--results', metavar='DIR', help='where folders of results go (default: results)')
	parser.add_argument('-v', '--verbose', action='store_true', help='show everything')


def add_guest(parser: argparse.ArgumentParser) -> None:
	parser.add_argument('--append', action='append', default=[], metavar='WORD',
			    help='a word for the kernel command line, such as test_devexcl.ndevices=4')
	parser.add_argument('--channel', choices=('virtio', 'serial'), default='virtio',
			    help='how guest and host talk (default: %(default)s)')
	parser.add_argument('--tests', type=str.split, default=[], metavar='GLOBS',
			    help="only tests that match, for example 'fork*' or 'abi.* atomic.add'")
	parser.add_argument('--timeout', type=float, metavar='SECONDS', help='limit for each test (default: 60)')
	parser.add_argument('--no-known', dest='known', action='store_false',
			    help='a known kernel bug is a failure like any other')


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

	add('run', cmd_run, 'All stages: fetch, configure, build, boot, collect, judge.', add_common, add_guest)
	add('fetch', cmd_fetch, 'Get kernel sources into the cache.', add_common)
	add('configure', cmd_configure, 'Apply the overlay, configure, and verify the options.', add_common)
	add('build', cmd_build, 'Build kernel, module and tests.', add_common)
	add('boot', cmd_boot, 'Boot once and power off: does the guest come up?', add_common, add_guest)
	add('list', cmd_list, 'List all tests.', add_common, add_guest)
	add('shell', cmd_shell, 'A shell in the guest, with the module loaded.', add_common)
	return parser


def main(argv: Optional[list[str]] = None) -> int:
	args = make_parser().parse_args(argv)
	terminal.verbose = getattr(args, 'verbose', False)
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


if __name__ == '__main__':
	sys.exit(main())
