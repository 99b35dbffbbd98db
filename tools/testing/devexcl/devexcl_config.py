# SPDX-License-Identifier: GPL-2.0
"""Configuring a kernel: tinyconfig, then the fragments, then the proof that they hold.

The first fragment is that of the selftests, which says what they need; ours say
what a guest needs besides.

A fragment is what merge_config.sh takes, with two additions that are comments
to it:

    # optional: <reason>
    CONFIG_X=y			the next option may be refused by a kernel
    # CONFIG_Y is not set	a wish, to build quicker; nobody insists on it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from devexcl_arch import Arch
from devexcl_host import HERE, REPO, DevexclError, run_logged
from devexcl_overlay import SELFTESTS

CONFIGS = HERE / 'configs'


@dataclass(frozen=True)
class Wish:
	"""One option as a fragment asks for it."""

	name: str
	value: str
	fragment: str
	optional: str = ''	# the reason why a kernel may refuse it


def fragments(builtin: bool, debug: bool) -> list[Path]:
	names = ['base.config'] + ['debug.config'] * debug + ['builtin.config'] * builtin
	return [REPO / SELFTESTS / 'config', *(CONFIGS / name for name in names)]


def parse_fragment(path: Path) -> list[Wish]:
	"""All options that a fragment sets."""
	wishes = []
	optional = ''
	for line in path.read_text(encoding='utf-8').splitlines():
		note = re.match(r'#\s*optional:\s*(.+)', line)
		option = re.match(r'(CONFIG_\w+)=(.+)', line)
		if note:
			optional = note.group(1)
		elif option:
			wishes.append(Wish(option.group(1), option.group(2), path.name, optional))
			optional = ''
	return wishes


def wanted(paths: list[Path]) -> dict[str, Wish]:
	"""What all fragments together ask for: the last one has the last word."""
	return {wish.name: wish for path in paths for wish in parse_fragment(path)}


def parse_config(text: str) -> dict[str, str]:
	return dict(re.findall(r'^(CONFIG_\w+)=(.+)$', text, re.MULTILINE))


def missing(config: dict[str, str], wishes: dict[str, Wish]) -> tuple[list[str], list[str]]:
	"""Options that are not what they should be: (those we need, those that are optional)."""
	needed, optional = [], []
	for wish in wishes.values():
		value = config.get(wish.name, 'n')
		if value != wish.value:
			text = f'{wish.name}={wish.value} ({wish.fragment}) became {value}'
			if wish.optional:
				optional.append(f'{text}: {wish.optional}')
			else:
				needed.append(text)
	return needed, optional


def configure(tree: Path, build: Path, paths: list[Path], arch: Arch, log: Path) -> list[str]:
	"""Writes <build>/.config; returns what is optional and not there.

	All is done in a file aside, so that a .config that has not changed keeps
	its time, and make does not begin anew.
	"""
	build.mkdir(parents=True, exist_ok=True)
	new = build / '.config.new'
	new.unlink(missing_ok=True)
	env = {'KCONFIG_CONFIG': str(new)}
	make = ['make', '-C', tree, f'O={build}', f'ARCH={arch.linux}']
	run_logged([*make, 'tinyconfig'], env=env, what='Configuring', log=log)
	run_logged([tree / 'scripts/kconfig/merge_config.sh', '-m', '-O', build, new, *paths], env=env, cwd=build,
		   what='Configuring', log=log)
	run_logged([*make, 'olddefconfig'], env=env, what='Configuring', log=log)

	text = new.read_text(encoding='utf-8')
	needed, optional = missing(parse_config(text), wanted(paths))
	if needed:
		raise DevexclError('This kernel refuses options that the tests need:\n  ' + '\n  '.join(needed)
				   + f'\nThe configuration that came out: {new}')
	config = build / '.config'
	if config.is_file() and config.read_text(encoding='utf-8') == text:
		new.unlink()
	else:
		new.replace(config)
	return optional
