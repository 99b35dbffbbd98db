# SPDX-License-Identifier: GPL-2.0
"""What every stage needs from the host: errors, progress, commands, locks, the cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[2]

# What a make that has called us hands down, and the variables of our Makefile. The
# kernel's Makefiles would take them for theirs: with DEBUG, objtool is compiled in
# another way, and after it everything.
OF_MAKE = ('MAKEFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'MFLAGS', 'BUILTIN', 'DEBUG', 'FIGURES', 'KERNEL', 'KSRC',
	   'MINUTES', 'ROUNDS', 'SEED', 'TESTS', 'V')

# Exit codes of every command.
OK, FAILED, CANNOT_RUN, INTERRUPTED = 0, 1, 2, 130


class DevexclError(Exception):
	"""Something that keeps us from building or booting: one message, exit code 2."""


def forget_make() -> None:
	"""Takes out of the environment what is not for the programs that we call."""
	for name in OF_MAKE:
		os.environ.pop(name, None)


# ---- what the user sees -------------------------------------------------


class Terminal:
	"""Ordinary lines, and below them one line of progress that is written over.

	Where output is not a terminal, progress is a whole line every few seconds.
	"""

	QUIET_SECONDS = 20
	FLICKER_SECONDS = 0.1

	def __init__(self, stream=None) -> None:
		self.stream = stream or sys.stdout
		self.tty = self.stream.isatty()
		self.verbose = False
		self.aside_thread: Optional[threading.Thread] = None	# works in the background
		self.aside = ''						# how far it is
		self._progress = ''
		self._last = 0.0
		self._lock = threading.RLock()

	def _erase(self) -> None:
		if self._progress:
			self.stream.write('\r\x1b[K')
			self._progress = ''

	def say(self, text: str = '') -> None:
		with self._lock:
			self._erase()
			self.stream.write(text + '\n')
			self.stream.flush()

	def warn(self, text: str) -> None:
		self.say('warning: ' + text)

	def in_background(self) -> bool:
		return threading.current_thread() is self.aside_thread

	def progress(self, text: str) -> None:
		if self.in_background():
			self.aside = text
			return
		if self.aside and self.aside != text:
			text = f'{text}  | {self.aside}'
		now = time.monotonic()
		if now - self._last < (self.FLICKER_SECONDS if self.tty else self.QUIET_SECONDS):
			return
		with self._lock:
			self._last = now
			if self.tty:
				self._erase()
				self._progress = text[:shutil.get_terminal_size().columns - 1]
				self.stream.write(self._progress)
			else:
				self.stream.write(text + '\n')
			self.stream.flush()

	def width(self) -> int:
		return shutil.get_terminal_size((120, 24)).columns

	def clear(self) -> None:
		with self._lock:
			self._erase()
			self.stream.flush()


terminal = Terminal()


def seconds(value: float) -> str:
	"""A duration as a person writes it."""
	if value < 10:
		return f'{value:.1f} s'
	if value < 90:
		return f'{value:.0f} s'
	return f'{int(value) // 60} min {int(value) % 60:02d} s'


class Timings:
	"""How long each stage took, in the order in which they ran."""

	def __init__(self) -> None:
		self.spent: dict[str, float] = {}

	@contextlib.contextmanager
	def measure(self, stage: str) -> Iterator[None]:
		start = time.monotonic()
		try:
			yield
		finally:
			self.spent[stage] = self.spent.get(stage, 0.0) + time.monotonic() - start

	def __str__(self) -> str:
		return ', '.join(f'{stage} {seconds(spent)}' for stage, spent in self.spent.items())


# ---- other people's programs --------------------------------------------


class CommandFailed(DevexclError):
	pass


def output_of(command: Sequence[str], **options) -> str:
	"""What a short command prints; an error with all it said when it fails."""
	try:
		done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
				      stderr=subprocess.PIPE, errors='replace', **options)
	except FileNotFoundError as err:
		raise CommandFailed(f'{command[0]} is not installed') from err
	if done.returncode:
		raise CommandFailed(f'{" ".join(command)}: exit status {done.returncode}\n'
				    + (done.stderr or done.stdout).strip())
	return done.stdout


def stop_group(process: subprocess.Popen, patience: float = 10) -> None:
	"""Ends a process and its children: first politely, so that make can tidy up, then not."""
	for sig in (signal.SIGINT, signal.SIGTERM):
		_signal_group(process, sig)
		try:
			process.wait(patience)
			break
		except subprocess.TimeoutExpired:
			continue
	_signal_group(process, signal.SIGKILL)
	process.wait()


def _signal_group(process: subprocess.Popen, sig: signal.Signals) -> None:
	with contextlib.suppress(ProcessLookupError):
		os.killpg(process.pid, sig)


# Commands that run_logged() has started, and whether they are to end.
_running: set[subprocess.Popen] = set()
_stopping = threading.Event()


@contextlib.contextmanager
def stop_commands() -> Iterator[None]:
	"""Ends the commands of other threads, which are interrupted by that; nothing is started meanwhile."""
	_stopping.set()
	try:
		for process in list(_running):
			stop_group(process)
		yield
	finally:
		_stopping.clear()


def run_logged(command: Sequence[str], *, what: str, log: Path, cwd: Optional[Path] = None,
	       env: Optional[dict[str, str]] = None) -> None:
	"""Runs a long command: all output into a log, the last line of it as progress.

	The command is a process group of its own, so that an interrupt reaches it
	once and from us. It inherits the locks that we hold: should we be killed,
	they stay locked until it has gone as well.
	"""
	start = time.monotonic()
	log.parent.mkdir(parents=True, exist_ok=True)
	with log.open('ab') as log_file:
		log_file.write(f'$ {" ".join(map(str, command))}\n'.encode())
		log_file.flush()
		process = subprocess.Popen(list(map(str, command)), cwd=cwd, stdin=subprocess.DEVNULL,
					   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
					   env={**os.environ, 'LC_ALL': 'C', **(env or {})},
					   start_new_session=True, pass_fds=tuple(Lock.held))
		_running.add(process)
		try:
			if _stopping.is_set():
				raise KeyboardInterrupt
			_follow(process, what, start, log_file)
			status = process.wait()
			if _stopping.is_set():
				raise KeyboardInterrupt
		except BaseException:
			stop_group(process)
			raise
		finally:
			_running.discard(process)
			process.stdout.close()
			if terminal.in_background():
				terminal.aside = ''
			else:
				terminal.clear()
	if status:
		raise CommandFailed(f'{what}: {command[0]} failed with exit status {status}\n'
				    + indent(tail(log)) + f'\nThe whole log: {log}')


def _follow(process: subprocess.Popen, what: str, start: float, log_file) -> None:
	"""Copies output to the log until the command closes it."""
	with selectors.DefaultSelector() as selector:
		selector.register(process.stdout, selectors.EVENT_READ)
		last = ''
		while True:
			# The timeout is for the clock in the progress line only.
			if selector.select(timeout=1):
				chunk = os.read(process.stdout.fileno(), 65536)
				if not chunk:
					return
				log_file.write(chunk)
				log_file.flush()
				text = chunk.decode(errors='replace')
				if terminal.verbose and not terminal.in_background():
					terminal.clear()
					sys.stdout.write(text)
				last = next((line.strip() for line in reversed(text.splitlines())
					     if line.strip()), last)
			terminal.progress(f'{what}: {seconds(time.monotonic() - start)}  {last}')


def tail(log: Path, lines: int = 25) -> str:
	"""The end of a log, starting a little before the first error in it."""
	text = log.read_bytes()[-200_000:].decode(errors='replace').splitlines()
	for number, line in enumerate(text):
		if re.search(r'error:|undefined reference|: Error [0-9]|[*]{3} ', line):
			return '\n'.join(text[max(0, number - 3):number + lines])
	return '\n'.join(text[-lines:])


def indent(text: str, by: str = '    ') -> str:
	return '\n'.join(by + line for line in text.splitlines())


# ---- files --------------------------------------------------------------


def cache_dir() -> Path:
	"""Where everything is kept that can be made again."""
	if 'DEVEXCL_CACHE' in os.environ:
		path = Path(os.environ['DEVEXCL_CACHE']).absolute()
	else:
		base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
		path = Path(base).absolute() / 'devexcl'
	if re.search(r'[\s:]', str(path)):
		raise DevexclError(f'The kernel cannot be built in a folder whose name has a space or a colon:\n'
				   f'  {path}\nName another one: DEVEXCL_CACHE=/some/where make run')
	path.mkdir(parents=True, exist_ok=True)
	return path


def write_atomically(path: Path, text: str) -> None:
	"""The file is the old one or the new one, whatever happens meanwhile."""
	path.parent.mkdir(parents=True, exist_ok=True)
	fd, name = tempfile.mkstemp(dir=path.parent, prefix='.' + path.name)
	with open(fd, 'w', encoding='utf-8') as file:
		file.write(text)
	os.replace(name, path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
	"""A folder under a temporary name that gets its name when it is complete.

	What an interrupted run has left under such a name is swept away by the next
	one; the caller holds the lock that keeps others out.
	"""
	for leftover in path.parent.glob(f'.new-{path.name}'):
		shutil.rmtree(leftover)
	temporary = path.parent / f'.new-{path.name}'
	temporary.mkdir(parents=True)
	try:
		yield temporary
		if path.exists():
			shutil.rmtree(path)
		temporary.rename(path)
	finally:
		shutil.rmtree(temporary, ignore_errors=True)


def hash_of(*parts: object) -> str:
	"""One name for many things."""
	digest = hashlib.sha256()
	for part in parts:
		digest.update(repr(part).encode())
		digest.update(b'\0')
	return digest.hexdigest()[:16]


def file_name(text: str) -> str:
	"""A version or a path as a name that make, shells and people can live with."""
	return re.sub(r'[^A-Za-z0-9.+_-]+', '-', text).strip('-')


class Lock:
	"""A lock between runs; a waiting run says for whom it waits.

	The kernel drops it when the last process that has it open ends, so that
	there is nothing to clean up after a crash.
	"""

	held: set[int] = set()

	def __init__(self, name: str) -> None:
		self.path = cache_dir() / 'locks' / file_name(name)
		self.fd = -1

	def __enter__(self) -> 'Lock':
		self.path.parent.mkdir(parents=True, exist_ok=True)
		self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
		try:
			self._acquire()
		except BaseException:
			os.close(self.fd)
			raise
		os.ftruncate(self.fd, 0)
		os.pwrite(self.fd, f'process {os.getpid()} since {time.strftime("%H:%M:%S")}'.encode(), 0)
		Lock.held.add(self.fd)
		return self

	def _acquire(self) -> None:
		try:
			fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
		except BlockingIOError:
			holder = os.pread(self.fd, 200, 0).decode(errors='replace') or 'another run'
			terminal.say(f'Waiting for {holder}, which is busy with {self.path.name} ...')
			fcntl.flock(self.fd, fcntl.LOCK_EX)

	def __exit__(self, *exc) -> None:
		Lock.held.discard(self.fd)
		os.close(self.fd)
