# SPDX-License-Identifier: GPL-2.0
"""Kernel sources: from the distribution's packages, or the user's own tree.

Either way the outcome is a *build copy* in the cache that belongs to us. The
overlay is applied there; what the user gave us is only ever read.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from devexcl_arch import host_arch
from devexcl_host import (CommandFailed, DevexclError, Lock, cache_dir, file_name, hash_of, new_folder,
			  output_of, run_logged, terminal, write_atomically)

DEFAULT_KERNEL = '6.12'


@dataclass(frozen=True)
class Source:
	"""A kernel to build: who it is, and where the build copy stands."""

	name: str		# for people and for names of folders
	identity: str		# changes whenever the contents do
	tree: Path		# the build copy
	origin: str		# what the user asked for, to repeat a run
	user_tree: Optional[Path] = None
	config_identity: str = ''	# changes with what a configuration depends on; '' if that is not known

	def lock(self) -> Lock:
		"""Whoever changes the build copy, or builds from it, holds this."""
		return Lock(self.name)

	def refreshed(self) -> 'Source':
		"""With the lock held: the copy as the user's tree is now."""
		if not self.user_tree:
			return self
		terminal.progress(f'Looking for changes in {self.user_tree}')
		manifest = Copier(self.user_tree, self.tree).sync()
		terminal.clear()
		return dataclasses.replace(self, identity=f'{kernel_version(self.tree)} {hash_of_contents(manifest)}',
					   config_identity=hash_of_contents(manifest, matters_to_config))


def kernel_version(tree: Path) -> str:
	"""VERSION.PATCHLEVEL.SUBLEVEL of a tree."""
	text = (tree / 'Makefile').read_text(encoding='utf-8', errors='replace')
	numbers = [re.search(rf'^{key}\s*=\s*(\d+)', text, re.MULTILINE)
		   for key in ('VERSION', 'PATCHLEVEL', 'SUBLEVEL')]
	if not all(numbers[:2]):
		raise DevexclError(f'{tree}/Makefile does not say which kernel this is')
	return '.'.join(number.group(1) for number in numbers if number)


def check_tree(tree: Path) -> None:
	"""Says exactly why a tree cannot be used, if it cannot."""
	if not tree.is_dir():
		raise DevexclError(f'There is no folder {tree}')
	if not all((tree / name).is_file() for name in ('Makefile', 'Kconfig', 'mm/memory.c')):
		raise DevexclError(f'{tree} is not a kernel tree: it lacks Makefile, Kconfig or mm/memory.c')
	arch = host_arch()
	if not (tree / 'arch' / arch.source / 'Makefile').is_file():
		raise DevexclError(f'{tree} has no arch/{arch.source}, so it cannot be built for {arch.linux}')
	rmap = tree / 'include/linux/rmap.h'
	if not rmap.is_file() or 'make_device_exclusive' not in rmap.read_text(encoding='utf-8', errors='replace'):
		raise DevexclError(f'{tree} is Linux {kernel_version(tree)}, which has no make_device_exclusive*(): '
				   'it came with 5.14')


# ---- the distribution's packages ------------------------------------------


class Apt:
	"""apt with lists, cache and sources of its own: the host's are left alone."""

	KEYRINGS = {'debian': '/usr/share/keyrings/debian-archive-keyring.gpg',
		    'ubuntu': '/usr/share/keyrings/ubuntu-archive-keyring.gpg'}
	DEBIAN_SUITES = ('bookworm', 'bookworm-backports', 'trixie', 'trixie-backports')
	DEBIAN_SECURITY = ('bookworm-security', 'trixie-security')

	def __init__(self) -> None:
		self.folder = cache_dir() / 'apt'
		self.config = self.folder / 'apt.conf'

	def prepare(self) -> None:
		for name in ('lists/partial', 'cache/archives/partial'):
			(self.folder / name).mkdir(parents=True, exist_ok=True)
		write_atomically(self.folder / 'sources.list', '\n'.join(self.source_lines()) + '\n')
		write_atomically(self.config, '\n'.join((
			f'Dir::Etc::SourceList "{self.folder}/sources.list";',
			'Dir::Etc::SourceParts "-";',
			f'Dir::State::Lists "{self.folder}/lists";',
			f'Dir::Cache "{self.folder}/cache";',
			'Acquire::Languages "none";',
			'APT::Sandbox::User "";',
			'Debug::NoLocking "true";',
			'')))

	def source_lines(self) -> list[str]:
		"""The suites that have kernel sources, on the mirrors that this machine uses already."""
		release = os_release()
		sites = host_sites()
		if release.get('ID') == 'debian' or os.environ.get('DEVEXCL_DEBIAN_MIRROR'):
			keyring = self.KEYRINGS['debian']
			main, security = debian_sites(sites)
			entries = [(main, suite) for suite in self.DEBIAN_SUITES]
			entries += [(security, suite) for suite in self.DEBIAN_SECURITY]
			components = 'main'
		elif release.get('ID') == 'ubuntu':
			keyring = self.KEYRINGS['ubuntu']
			entries = sorted(sites)
			components = 'main universe'
		else:
			raise DevexclError(f'{release.get("PRETTY_NAME", "This system")} has no linux-source packages that '
					   'we know of.\nUse a kernel tree of your own: make run KSRC=/path/to/linux')
		if not Path(keyring).is_file():
			raise DevexclError(f'The keyring that signs the packages is missing: {keyring}')
		arch = output_of(['dpkg', '--print-architecture']).strip()
		return [f'deb [arch={arch} signed-by={keyring}] {site} {suite} {components}' for site, suite in entries]

	def update(self, log: Path) -> None:
		"""Reads the lists. A suite that a mirror does not have is no reason to stop."""
		try:
			run_logged(['apt-get', '-c', self.config, '-q', 'update'], what='Reading package lists', log=log)
		except CommandFailed as err:
			if not any((self.folder / 'lists').glob('*_Packages*')):
				raise
			terminal.progress(f'Some package lists could not be read: {err}'.splitlines()[0])

	def offered(self) -> list[str]:
		"""Versions of linux-source-<version> on offer, oldest first."""
		names = output_of(['apt-cache', '-c', self.config, 'pkgnames', 'linux-source-']).split()
		versions = [match.group(1) for match in
			    (re.fullmatch(r'linux-source-(\d+(?:\.\d+)+)', name) for name in names) if match]
		return sorted(versions, key=version_key)

	def newest(self, package: str) -> Optional[str]:
		"""The newest version of a package, as dpkg orders versions."""
		listing = output_of(['apt-cache', '-c', self.config, 'madison', package])
		versions = {line.split('|')[1].strip() for line in listing.splitlines() if line.count('|') >= 2}
		return max(versions, key=functools.cmp_to_key(compare_debian_versions), default=None)

	def download(self, package: str, version: str, folder: Path, log: Path) -> None:
		run_logged(['apt-get', '-c', self.config, '-q', 'download', f'{package}={version}'], cwd=folder,
			   what=f'Downloading {package} {version}', log=log)


def version_key(version: str) -> tuple[int, ...]:
	return tuple(int(number) for number in re.findall(r'\d+', version))


def compare_debian_versions(a: str, b: str) -> int:
	if a == b:
		return 0
	return -1 if subprocess.run(['dpkg', '--compare-versions', a, 'lt', b], check=False).returncode == 0 else 1


def os_release() -> dict[str, str]:
	try:
		lines = Path('/etc/os-release').read_text(encoding='utf-8').splitlines()
	except OSError:
		return {}
	pairs = (line.partition('=') for line in lines if '=' in line)
	return {key: value.strip('"') for key, _, value in pairs}


def host_sites() -> set[tuple[str, str]]:
	"""(site, release) pairs that the host's own apt is set up with."""
	listing = output_of(['apt-get', 'indextargets', '--format', '$(SITE) $(RELEASE)', 'Created-By: Packages'])
	pairs = {tuple(line.split()) for line in listing.splitlines() if len(line.split()) == 2}
	if not pairs:	# nothing downloaded yet: ask what would be
		listing = output_of(['apt-get', 'update', '--print-uris', '-o', 'Debug::NoLocking=true'])
		pairs = set(re.findall(r"^'(\S+?)/dists/([^/\s]+(?:/updates)?)/InRelease'", listing, re.MULTILINE))
	if os.environ.get('DEVEXCL_DEBIAN_MIRROR'):
		pairs = {(os.environ['DEVEXCL_DEBIAN_MIRROR'].rstrip('/'), 'stable')}
	pairs = {(site.rstrip('/'), release) for site, release in pairs if not site.startswith('cdrom:')}
	if not pairs:
		raise DevexclError('apt on this machine has no package sources, so there is no mirror to get kernel '
				   'sources from.\nUse a kernel tree of your own: make run KSRC=/path/to/linux, or name '
				   'a Debian mirror: DEVEXCL_DEBIAN_MIRROR=<url of its debian folder>')
	return pairs


def debian_sites(pairs: set[tuple[str, str]]) -> tuple[str, str]:
	"""The main and the security archive; where one is not configured, it stands beside the other."""
	security = sorted(site for site, release in pairs if 'security' in release or site.endswith('-security'))
	main = sorted(site for site, release in pairs if site not in security and re.search(r'/debian$', site))
	main = main or sorted(site for site, release in pairs if site not in security)
	if not main:
		main = [re.sub(r'-security$', '', security[0])]
	if not security:
		security = [main[0] + '-security']
	return main[0], security[0]


def debian_source(kernel: str, log: Path, update: bool = False) -> Source:
	"""The build copy of a distribution kernel: 6.12, 7.3, ..., or latest."""
	if kernel != 'latest' and not re.fullmatch(r'\d+\.\d+(\.\d+)?', kernel):
		raise DevexclError(f'KERNEL={kernel} is not a version: use one like 6.12, or latest, '
				   'or KSRC=/path/to/linux')
	number, version = resolve(kernel, log, update)
	package = f'linux-source-{number}'
	name = file_name(f'{number}-{version}')
	tree = cache_dir() / 'sources' / name
	identity = f'{package} {version}'
	source = Source(name=name, identity=identity, tree=tree, origin=f'KERNEL={kernel}', config_identity=identity)
	if not (tree / 'Makefile').is_file():
		with source.lock():
			if not (tree / 'Makefile').is_file():
				_unpack(package, version, tree, log)
	check_tree(tree)
	return source


def resolve(kernel: str, log: Path, update: bool = False) -> tuple[str, str]:
	"""Which package version a kernel is. Looked up once a day, or when told to."""
	record = cache_dir() / 'sources' / f'{file_name(kernel)}.json'
	known = None
	try:
		known = json.loads(record.read_text(encoding='utf-8'))
		have = (cache_dir() / 'sources' / file_name(f'{known["number"]}-{known["version"]}')).is_dir()
		if have and not update and time.time() - known['checked'] < 24 * 3600:
			return known['number'], known['version']
	except (OSError, ValueError, KeyError):
		have = False
	try:
		number, version = look_up(kernel, log)
	except DevexclError as err:
		if not have:
			raise
		terminal.warn(f'cannot ask for a newer version of {kernel} ({str(err).splitlines()[0]}); '
			      f'going on with {known["version"]} from the cache')
		return known['number'], known['version']
	write_atomically(record, json.dumps({'number': number, 'version': version, 'checked': time.time()}))
	return number, version


def look_up(kernel: str, log: Path) -> tuple[str, str]:
	if not shutil.which('apt-get'):
		raise DevexclError('There is no apt-get here to get kernel sources with.\n'
				   'Use a kernel tree of your own: make run KSRC=/path/to/linux')
	with Lock('apt'):
		apt = Apt()
		apt.prepare()
		apt.update(log)
		offered = apt.offered()
		number = offered[-1] if kernel == 'latest' and offered else kernel
		version = apt.newest(f'linux-source-{number}') if number in offered else None
		if not version:
			raise DevexclError(f'The package linux-source-{kernel} is not offered here; there is: '
					   f'{", ".join(offered) or "none"}.\nChoose one of these (KERNEL=), or use a tree of '
					   'your own: make run KSRC=/path/to/linux')
		return number, version


def _unpack(package: str, version: str, tree: Path, log: Path) -> None:
	packages = cache_dir() / 'packages'
	packages.mkdir(parents=True, exist_ok=True)
	pattern = f'{package}_{version.replace(":", "%3a")}_*.deb'
	if not any(packages.glob(pattern)):
		with Lock('apt'), tempfile.TemporaryDirectory(dir=packages) as folder:
			Apt().download(package, version, Path(folder), log)
			for deb in Path(folder).glob('*.deb'):
				deb.rename(packages / deb.name)
	deb = next(packages.glob(pattern))
	with new_folder(tree) as folder, tempfile.TemporaryDirectory(dir=packages) as unpacked:
		run_logged(['dpkg-deb', '-x', deb, unpacked], what=f'Unpacking {package} {version}', log=log)
		archive = next(Path(unpacked).glob('usr/src/linux-source-*.tar.*'))
		run_logged(['tar', '-xf', archive, '-C', folder, '--strip-components=1'],
			   what=f'Unpacking {package} {version}', log=log)
	deb.unlink()


# ---- the user's own tree ---------------------------------------------------

# Signs that kbuild has worked in the tree itself.
BUILT_IN_PLACE = ('.config', 'include/config', 'include/generated', 'scripts/basic/fixdep', 'vmlinux.o')


def user_source(path: Path) -> Source:
	"""The build copy of the user's tree, brought up to date. The tree itself is only read."""
	tree = Path(os.path.realpath(path))
	check_tree(tree)
	copy = cache_dir() / 'sources' / f'ksrc-{file_name(tree.name)}-{hash_of(str(tree))[:8]}'
	source = Source(name=copy.name, identity='', tree=copy, origin=f'KSRC={path}', user_tree=tree)
	with source.lock():
		return source.refreshed()


def source_files(tree: Path) -> list[str]:
	"""All that is source in a tree, and nothing that a build has left in it."""
	names = _git_list(['git', '--no-optional-locks', '-c', 'safe.directory=*', '-C', str(tree),
			   'ls-files', '-z', '--cached', '--others', '--exclude-standard', *_repaired_rules(tree)])
	if 'Makefile' in names and 'Kconfig' in names:
		return names
	if not any((tree / sign).exists() for sign in BUILT_IN_PLACE):
		return all_files(tree)
	# No repository, but products of a build: the kernel's own ignore rules know them.
	with tempfile.TemporaryDirectory() as folder:
		output_of(['git', 'init', '-q', folder])
		return _git_list(['git', f'--git-dir={folder}/.git', f'--work-tree={tree}', '-C', str(tree), 'ls-files', '-z',
				  '--others', '--exclude-per-directory=.gitignore', *_repaired_rules(tree)])


def _git_list(command: list[str]) -> list[str]:
	try:
		listing = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
	except (OSError, subprocess.CalledProcessError):
		return []
	return [os.fsdecode(name) for name in listing.split(b'\0') if name]


def all_files(tree: Path) -> list[str]:
	names = []
	for folder, folders, files in os.walk(tree):
		links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
		names += [os.path.relpath(os.path.join(folder, name), tree) for name in files + links]
		if folder == str(tree) and '.git' in folders:
			folders.remove('.git')
	return names


def _repaired_rules(tree: Path) -> list[str]:
	"""Options that undo what Debian adds to the kernel's .gitignore: "/*", that is, everything.

	The rules for the top folder that stood before it are given again, as
	patterns of the command line have the last word.
	"""
	rules = []
	if not (tree / '.gitignore').is_file():
		return rules
	for line in (tree / '.gitignore').read_text(encoding='utf-8', errors='replace').splitlines():
		if line == '/*':
			return ['--exclude=!/*', *(f'--exclude={rule}' for rule in rules)]
		if line and not line.startswith('#'):
			sign, rule = ('!', line[1:]) if line.startswith('!') else ('', line)
			rules.append(sign + (rule if rule.startswith('/') else '/' + rule))
	return []


class Copier:
	"""Brings a build copy up to date with a tree.

	The manifest says for each file what it looked like when it was copied, and
	what was in it. A file that looks the same is not opened; one that has the
	same contents is not written, so that make does not compile it again.
	"""

	def __init__(self, tree: Path, copy: Path) -> None:
		self.tree = tree
		self.copy = copy
		self.record = copy.with_name(copy.name + '.json')

	def sync(self) -> dict:
		"""Returns the manifest: what each file looks like, and a hash of it."""
		old = self._read()
		new, changed = {}, []
		for name in source_files(self.tree):
			try:
				looks = self._looks(name)
			except FileNotFoundError:	# deleted, but git does not know yet
				continue
			known = old.get(name)
			if known and known[:-1] == looks:
				new[name] = known
			else:
				changed.append(name)
				new[name] = None
		vanished = [name for name in old if name not in new]
		if changed or vanished:
			# Until this is done nobody relies on what is being changed.
			self._write({**{name: None for name in vanished}, **new})
			for name in vanished:
				self._remove(name)
			with concurrent.futures.ThreadPoolExecutor(4) as pool:
				for name, entry in pool.map(functools.partial(self._copy, keep_times=not old), changed):
					if entry:
						new[name] = entry
					else:
						del new[name]
			self._write(new)
		return new

	def _looks(self, name: str) -> list:
		status = os.lstat(self.tree / name)
		return [stat.S_IFMT(status.st_mode) | status.st_mode & 0o111, status.st_size, status.st_mtime_ns,
			status.st_ctime_ns]

	def _copy(self, name: str, keep_times: bool) -> tuple[str, Optional[list]]:
		source, target = self.tree / name, self.copy / name
		try:
			looks = self._looks(name)
			if stat.S_ISLNK(looks[0]):
				contents = os.fsencode(os.readlink(source))
			elif stat.S_ISREG(looks[0]):
				contents = read_quietly(source)
			else:
				return name, None	# a repository inside, a socket, ...: not source
		except FileNotFoundError:
			return name, None
		target.parent.mkdir(parents=True, exist_ok=True)
		if stat.S_ISLNK(looks[0]):
			if target.is_symlink() or target.exists():
				target.unlink()
			target.symlink_to(os.fsdecode(contents))
		else:
			self._write_file(target, contents, looks, keep_times)
		return name, [*looks, hashlib.blake2b(contents, digest_size=12).hexdigest()]

	@staticmethod
	def _write_file(target: Path, contents: bytes, looks: list, keep_times: bool) -> None:
		"""After the first time a file gets the present time: whatever its own is, make has to see a change."""
		if target.is_symlink() or not target.is_file() or target.read_bytes() != contents:
			temporary = target.with_name(f'.{target.name}.devexcl')
			temporary.write_bytes(contents)
			if keep_times:
				os.utime(temporary, ns=(looks[2], looks[2]))
			temporary.replace(target)
		target.chmod(0o644 | looks[0] & 0o111)

	def _remove(self, name: str) -> None:
		"""Takes folders along that are empty then: kbuild goes by the mere presence of some."""
		path = self.copy / name
		with contextlib.suppress(OSError):
			path.unlink()
			for folder in path.relative_to(self.copy).parents:
				(self.copy / folder).rmdir()

	def _read(self) -> dict:
		try:
			return json.loads(self.record.read_text(encoding='utf-8')) if self.copy.is_dir() else {}
		except (OSError, ValueError):
			# Nothing is known about what is there: begin anew.
			shutil.rmtree(self.copy, ignore_errors=True)
			return {}

	def _write(self, manifest: dict) -> None:
		write_atomically(self.record, json.dumps(manifest))


def hash_of_contents(manifest: dict, matters: Callable[[str], bool] = lambda name: True) -> str:
	"""One name for the contents of all files, or of those that matter."""
	return hash_of(sorted((name, entry[0], entry[-1]) for name, entry in manifest.items() if matters(name)))


def matters_to_config(name: str) -> bool:
	"""Not what is only compiled: Kconfig and make's own files, and all that they may run."""
	return name.startswith('scripts/') or not name.endswith(('.c', '.h', '.S', '.rs', '.rst', '.txt', '.yaml', '.dts', '.dtsi'))


def read_quietly(path: Path) -> bytes:
	"""The contents, without leaving a trace such as the time of the last access."""
	try:
		fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC)
	except PermissionError:
		fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
	with open(fd, 'rb') as file:
		return file.read()
