# SPDX-License-Identifier: GPL-2.0
"""The overlay: this repository's kernel files, put into a kernel tree.

Every file under lib/, include/, Documentation/ and tools/testing/selftests/ goes
where it stands here. Three files of the kernel get a line each, so that the
kernel's own build finds ours. Applying twice changes nothing, and a file is
written only if its contents differ: make rebuilds what has changed, no more.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

from devexcl_host import REPO, DevexclError, hash_of_files, write_atomically

ROOTS = ('lib', 'include', 'Documentation', 'tools/testing/selftests')
RUNNER = 'tools/testing/devexcl'
SELFTESTS = 'tools/testing/selftests/devexcl'
KCONFIG, KCONFIG_INSTALLED = 'Kconfig.debug', 'lib/Kconfig.devexcl'

# Files of the overlay that an earlier run has put into a tree.
RECORD = '.devexcl-overlay.json'

# Left behind by builds inside the repository; only asked where git cannot tell.
PRODUCTS = ('*.o', '*.ko', '*.mod', '*.mod.c', '*.cmd', '*.order', '*.symvers', '.*.d', '*.swp', '*~')

# (module, the Kconfig symbol that switches it on)
MODULES = (('test_devexcl', 'TEST_DEVEXCL'),
	   ('test_devexcl_aperture', 'TEST_DEVEXCL_APERTURE'))


def overlay_files(repo: Path = REPO, roots: tuple[str, ...] = ROOTS) -> dict[str, Path]:
	"""All files of the overlay: name in the kernel tree -> file here."""
	files = {name: repo / name for name in _source_names(repo, roots)}
	if (repo / KCONFIG).is_file():
		files[KCONFIG_INSTALLED] = repo / KCONFIG
	return files


def _source_names(repo: Path, roots: tuple[str, ...]) -> list[str]:
	try:
		listing = subprocess.run(['git', '-c', 'safe.directory=*', '-C', str(repo), 'ls-files', '-z',
					  '--cached', '--others', '--exclude-standard', '--', *roots],
					 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
		names = [os.fsdecode(name) for name in listing.split(b'\0') if name]
	except (OSError, subprocess.CalledProcessError):
		names = [str(path.relative_to(repo)) for root in roots for path in (repo / root).rglob('*')
			 if not any(fnmatch.fnmatch(path.name, pattern) for pattern in PRODUCTS)]
	return sorted(name for name in set(names) if (repo / name).is_file())


def modules(repo: Path = REPO) -> list[tuple[str, str]]:
	"""The modules that exist so far, in the order in which they are loaded."""
	return [(name, symbol) for name, symbol in MODULES if (repo / 'lib' / f'{name}.c').is_file()]


def kernel_part_hash(repo: Path = REPO) -> str:
	"""Changes when something changes that is compiled into the kernel."""
	files = overlay_files(repo)
	return hash_of_files(repo, (str(path.relative_to(repo)) for name, path in files.items()
				    if name.startswith(('lib/', 'include/'))))


def tests_part_hash(repo: Path = REPO) -> str:
	"""Changes when something changes that the test programs are made of."""
	files = overlay_files(repo)
	return hash_of_files(repo, (str(path.relative_to(repo)) for name, path in files.items()
				    if name.startswith((SELFTESTS, 'include/uapi/'))))


def apply(tree: Path, repo: Path = REPO, for_patches: bool = False) -> list[str]:
	"""Puts the overlay into a tree; returns the names of the files that were written.

	A tree to make patches from gets the runner as well, and none of our records.
	"""
	if not (tree / 'lib' / 'Kconfig.debug').is_file():
		raise DevexclError(f'{tree} is not a kernel tree: it has no lib/Kconfig.debug')
	files = overlay_files(repo, ROOTS + (RUNNER,) * for_patches)
	written = _remove_vanished(tree, files)
	for name, source in files.items():
		if _write_if_different(tree / name, source.read_bytes()):
			written.append(name)
	for name, change in (('lib/Kconfig.debug', _with_kconfig), ('lib/Makefile', _with_modules),
			     ('tools/testing/selftests/Makefile', _with_selftests)):
		path = tree / name
		before = path.read_text(encoding='utf-8', errors='surrogateescape')
		after = change(before, repo)
		if _write_if_different(path, after.encode('utf-8', 'surrogateescape')):
			written.append(name)
	if not for_patches:
		write_atomically(tree / RECORD, json.dumps(sorted(files)))
	return written


def _remove_vanished(tree: Path, files: dict[str, Path]) -> list[str]:
	"""What an earlier overlay had and this one has not must not be built any more."""
	try:
		earlier = json.loads((tree / RECORD).read_text(encoding='utf-8'))
	except (OSError, ValueError):
		return []
	vanished = [name for name in earlier if name not in files and (tree / name).exists()]
	for name in vanished:
		(tree / name).unlink()
	return vanished


def _write_if_different(path: Path, contents: bytes) -> bool:
	if path.is_file() and path.read_bytes() == contents:
		return False
	path.parent.mkdir(parents=True, exist_ok=True)
	temporary = path.with_name(f'.{path.name}.devexcl')
	temporary.write_bytes(contents)
	if path.exists():
		temporary.chmod(path.stat().st_mode)
	temporary.replace(path)
	return True


def _with_kconfig(text: str, repo: Path) -> str:
	"""lib/Kconfig.debug, sourcing ours after TEST_HMM: inside the menu of runtime tests."""
	line = f'source "{KCONFIG_INSTALLED}"\n'
	text = text.replace(line + '\n', '')
	if not (repo / KCONFIG).is_file():
		return text
	anchor = re.search(r'^config TEST_HMM\n(?:[ \t].*\n|\n)*', text, re.MULTILINE)
	if not anchor:
		raise DevexclError('lib/Kconfig.debug has no TEST_HMM: make_device_exclusive*() came later than it did')
	return text[:anchor.end()] + line + '\n' + text[anchor.end():]


def _with_modules(text: str, repo: Path) -> str:
	"""lib/Makefile, with our modules; -I is for their trace header."""
	text = re.sub(r'^(obj-\$\(CONFIG_TEST_DEVEXCL|CFLAGS_test_devexcl).*\n', '', text, flags=re.MULTILINE)
	lines = ''.join(f'obj-$(CONFIG_{symbol}) += {name}.o\nCFLAGS_{name}.o += -I$(src)\n'
			for name, symbol in modules(repo))
	anchor = re.search(r'^obj-\$\(CONFIG_TEST_HMM\).*\n', text, re.MULTILINE)
	if not anchor:
		raise DevexclError('lib/Makefile does not build test_hmm: this kernel is too old')
	return text[:anchor.end()] + lines + text[anchor.end():]


def _with_selftests(text: str, repo: Path) -> str:
	"""tools/testing/selftests/Makefile, with our folder among the targets."""
	line = 'TARGETS += devexcl\n'
	text = text.replace(line, '')
	if not (repo / SELFTESTS / 'Makefile').is_file():
		return text
	anchor = re.search(r'^TARGETS \+= cpu-hotplug\n', text, re.MULTILINE)
	if not anchor:
		raise DevexclError('tools/testing/selftests/Makefile has no list of TARGETS as we know it')
	return text[:anchor.end()] + line + text[anchor.end():]
