# SPDX-License-Identifier: GPL-2.0
"""Work in the background: the next kernel is built while the last one is tested."""

from __future__ import annotations

import os
import queue
import threading
from typing import Callable, Generic, Iterable, Optional, TypeVar

from devexcl_host import stop_commands, terminal

T = TypeVar('T')

# What is tested has its limits in seconds; what is built has not.
NICE = 10
PATIENCE_SECONDS = 10


class Background(Generic[T]):
	"""Does one task after the other in a thread, and hands out what came of them in their order.

	As a context manager: whoever leaves it, for whatever reason, leaves nothing running.
	"""

	def __init__(self, tasks: Iterable[Callable[[], T]]) -> None:
		self._tasks = list(tasks)
		self._outcomes: queue.Queue[tuple[Optional[T], Optional[BaseException]]] = queue.Queue()
		self._stopping = False
		self._thread = threading.Thread(target=self._work, daemon=True)

	def __enter__(self) -> 'Background[T]':
		terminal.aside_thread = self._thread
		self._thread.start()
		return self

	def __exit__(self, *exc) -> None:
		self._stopping = True
		if self._thread.is_alive():
			# Nothing is to be started between our look and the end of the thread.
			with stop_commands():
				self._thread.join(PATIENCE_SECONDS)
		terminal.aside_thread, terminal.aside = None, ''

	def get(self) -> T:
		"""What came of the next task; raises what went wrong in it."""
		while True:
			try:
				value, error = self._outcomes.get(timeout=1)
				break
			except queue.Empty:
				terminal.progress(terminal.aside or 'Waiting for what is built ...')
		if error:
			raise error
		return value

	def _work(self) -> None:
		os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
		for task in self._tasks:
			try:
				outcome = (task(), None)
			except BaseException as err:	# pylint: disable=broad-except
				outcome = (None, err)
			if self._stopping:
				return
			self._outcomes.put(outcome)
