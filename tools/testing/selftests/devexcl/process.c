// SPDX-License-Identifier: GPL-2.0
/*
 * The process whose pages a device holds ends, becomes another one, has
 * children, or is looked at by others
 */
#include <linux/elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

#define CGROUPS			"/sys/fs/cgroup"

/* What is looked at and changed of each page by another process. */
#define HEAD_WORDS		8
#define HEAD_SIZE		(HEAD_WORDS * sizeof(uint64_t))
#define MAX_TARGET		16

/*
 * Run this program anew, as a process of its own that knows nothing of ours.
 * A fork() would take the pages from the device; vfork() does not.
 */
static pid_t run_helper(const char *what, int in, int out, unsigned long a,
			unsigned long b)
{
	char parent[24], first[24], second[24];
	pid_t pid;

	snprintf(parent, sizeof(parent), "%d", getpid());
	snprintf(first, sizeof(first), "%lu", a);
	snprintf(second, sizeof(second), "%lu", b);
	pid = vfork();
	if (pid)
		return pid;
	dup2(in, 0);
	dup2(out, 1);
	execl("/proc/self/exe", "process", "--helper", what, parent, first,
	      second, NULL);
	_exit(127);
}

/* The end of the owner */

static const char *act_exit(struct cell *cell)
{
	(void)cell;
	_exit(0);
}

static const char *watch_exit(struct cell *cell)
{
	return wait_owner(cell, 0);
}

static const char *watch_kill(struct cell *cell)
{
	TRY(must("kill", kill(cell->owner, SIGKILL)));
	return wait_owner(cell, -SIGKILL);
}

/* The device gets pages and loses them again, for ever. */
static const char *act_acquire_for_ever(struct cell *cell)
{
	size_t n = 0;
	int ret;

	go_to_other_cpus();
	do {
		size_t page = cell->first + n++ % cell->pages;

		READ_MEM(word_of(&cell->mem, page));
		ret = dev_acquire_one(&cell->dev, page_of(&cell->mem, page));
	} while (!ret || ret == -EBUSY);
	return must("acquire", ret);
}

/* The device is in the middle of an operation nearly all the time. */
static const char *act_atomics_for_ever(struct cell *cell)
{
	struct devexcl_atomic_op ops[64];
	long ret;
	size_t i;

	go_to_other_cpus();
	do {
		for (i = 0; i < ARRAY_SIZE(ops); i++)
			ops[i] = (struct devexcl_atomic_op){
				.addr = (uintptr_t)target(cell) + 8 * i,
				.operand = 1,
				.op = DEVEXCL_OP_ADD,
				.width = 8,
			};
		ret = dev_atomic(&cell->dev, ops, ARRAY_SIZE(ops),
				 DEVEXCL_ATOMIC_ACQUIRE | DEVEXCL_ATOMIC_GAP,
				 100000);
	} while (ret > 0 || ret == -EBUSY);
	return must("atomic operation", ret);
}

/* How much the device has done. */
static uint64_t device_work(struct cell *cell)
{
	struct devexcl_stats stats;

	return dev_stats(&cell->dev, &stats) ? 0 : stats.acquired + stats.ops;
}

/* The device shall be at work, unless somebody has found something wrong. */
static void wait_for_work(struct cell *cell, uint64_t more)
{
	uint64_t before = device_work(cell);
	siginfo_t info = {};

	while (device_work(cell) < before + more && !info.si_pid) {
		sched_yield();
		waitid(P_PID, cell->owner_child, &info,
		       WEXITED | WNOHANG | WNOWAIT);
	}
}

static const char *watch_kill_at_work(struct cell *cell)
{
	wait_for_work(cell, 20);
	return watch_kill(cell);
}

static void *atomics_thread(void *cell)
{
	return (void *)act_atomics_for_ever(cell);
}

static void *acquire_thread(void *cell)
{
	return (void *)act_acquire_for_ever(cell);
}

/* One thread ends all of them, while the others use the pages. */
static const char *act_exit_with_threads(struct cell *cell)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, atomics_thread, cell) ||
	    pthread_create(&thread, NULL, acquire_thread, cell))
		return fail("pthread_create failed");
	wait_for_work(cell, 20);
	_exit(0);
}

/* Another program in the same process */

static const char *act_exec(struct cell *cell)
{
	char fd[24], addr[24];

	snprintf(fd, sizeof(fd), "%d", dup(cell->dev.fd));
	snprintf(addr, sizeof(addr), "%lu", (unsigned long)target(cell));
	execl("/proc/self/exe", "process", "--helper", "use_context", "0", fd,
	      addr, NULL);
	return must("execl", -1);
}

/* The memory that is at this address now is none of the context's business. */
static int use_context(int fd, unsigned long addr)
{
	struct dev dev = { .fd = fd };
	uint64_t *p = mmap((void *)addr, page_size(), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	struct devexcl_stats stats;
	int ret;

	if (p == MAP_FAILED)
		return 2;
	*p = 1;
	/* Who looked at the old address space may keep it for a moment. */
	while ((ret = dev_acquire(&dev, p, 1)) == -EPERM)
		sched_yield();
	if (ret != -ESRCH || dev_add(&dev, p, 1, NULL) != -ESRCH ||
	    dev_write_word(&dev, p, 7) != -ESRCH || READ_MEM(p) != 1)
		return 3;
	return dev_stats(&dev, &stats) || stats.held ? 4 : 0;
}

/* Core dumps */

static const char *core_dir(const struct cell *cell)
{
	static char name[64];

	snprintf(name, sizeof(name), "/tmp/devexcl-core-%d",
		 cell->owner ?: getpid());
	return name;
}

static const char *prepare_core(struct cell *cell)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	TRY(must("core_pattern",
		 write_file("/proc/sys/kernel/core_pattern", "core")));
	TRY(must("setrlimit", setrlimit(RLIMIT_CORE, &limit)));
	TRY(must("mkdir", mkdir(core_dir(cell), 0700)));
	return must("chdir", chdir(core_dir(cell)));
}

static const char *prepare_core_without(struct cell *cell)
{
	TRY(must("MADV_DONTDUMP", madvise(cell->mem.p, cell->mem.size,
					  MADV_DONTDUMP)));
	return prepare_core(cell);
}

static const char *act_abort(struct cell *cell)
{
	(void)cell;
	abort();
}

static const char *watch_abort(struct cell *cell)
{
	return wait_owner(cell, -SIGABRT);
}

/* A core file. */
struct core {
	char *p;
	size_t size;
};

/* Map it; the file itself is not needed any more. */
static const char *open_core(struct cell *cell, struct core *core)
{
	struct stat st;
	char name[80];
	int fd;

	snprintf(name, sizeof(name), "%s/core", core_dir(cell));
	fd = open(name, O_RDONLY | O_CLOEXEC);
	TRY(must("open core file", fd));
	TRY(must("fstat", fstat(fd, &st)));
	unlink(name);
	rmdir(core_dir(cell));
	core->size = st.st_size;
	core->p = mmap(NULL, core->size, PROT_READ, MAP_PRIVATE, fd, 0);
	return must("mmap", core->p == MAP_FAILED ? -1 : 0);
}

/* Where the core file has what was at an address; NULL if it does not. */
static const char *find_in_core(const struct core *core, const char *addr)
{
	const struct elf64_hdr *elf = (const void *)core->p;
	const struct elf64_phdr *seg = (const void *)(core->p + elf->e_phoff);
	size_t i;

	for (i = 0; i < elf->e_phnum; i++, seg++) {
		size_t offset = (uintptr_t)addr - seg->p_vaddr;

		if (seg->p_type == PT_LOAD && offset < seg->p_filesz &&
		    seg->p_offset + offset < core->size)
			return core->p + seg->p_offset + offset;
	}
	return NULL;
}

static const char *finish_core(struct cell *cell)
{
	struct core core;
	size_t page;

	TRY(open_core(cell, &core));
	for (page = 0; page < cell->mem.pages; page++) {
		const char *p = find_in_core(&core, page_of(&cell->mem, page));

		if (!p)
			return fail("page %zu is not in the core file", page);
		TRY(check_page(cell, page, p, false));
	}
	return NULL;
}

static const char *finish_core_without(struct cell *cell)
{
	struct core core;
	size_t page;

	TRY(open_core(cell, &core));
	for (page = 0; page < cell->mem.pages; page++)
		if (find_in_core(&core, page_of(&cell->mem, page)))
			return fail("page %zu is in the core file", page);
	return NULL;
}

/* Out of memory, and other reasons to empty an address space early */

/* Have the owner stop when it has begun to exit, with its memory still there. */
static const char *catch_exit(struct cell *cell)
{
	return must("ptrace", ptrace(PTRACE_SEIZE, cell->owner, NULL,
				     PTRACE_O_TRACEEXIT));
}

static const char *wait_caught(struct cell *cell)
{
	int status;

	TRY(must("waitpid", waitpid(cell->owner, &status, __WALL)));
	if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8))
		return NULL;
	return fail("the owner did not stop at its exit, but with %#x", status);
}

static const char *let_go(struct cell *cell)
{
	TRY(must("ptrace", ptrace(PTRACE_DETACH, cell->owner, NULL, NULL)));
	return wait_owner(cell, -SIGKILL);
}

/* The owner has not gone yet, but nothing is mapped in it any more. */
static const char *check_emptied(struct cell *cell)
{
	char name[64];
	size_t page;
	int fd;

	/* Some kernels call it unmapping. */
	TRY(check_all_taken(cell, CAUSE(CLEAR) | CAUSE(UNMAP)));
	snprintf(name, sizeof(name), "/proc/%d/pagemap", cell->owner);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	TRY(must("open pagemap", fd));
	for (page = 0; page < cell->mem.pages; page++) {
		off_t n = (uintptr_t)page_of(&cell->mem, page) / page_size();
		uint64_t word;

		if (pread(fd, &word, sizeof(word), n * sizeof(word)) !=
		    sizeof(word))
			return must("read pagemap", -1);
		if (word & (PAGEMAP_PRESENT | PAGEMAP_SWAP))
			return fail("page %zu is still mapped", page);
	}
	close(fd);
	return NULL;
}

/* Somebody who does not want to wait for the end of a killed process. */
static const char *watch_mrelease(struct cell *cell)
{
	int pidfd = syscall(SYS_pidfd_open, cell->owner, 0);

	TRY(must("pidfd_open", pidfd));
	TRY(catch_exit(cell));
	TRY(must("kill", kill(cell->owner, SIGKILL)));
	TRY(wait_caught(cell));
	TRY(must("process_mrelease",
		 syscall(SYS_process_mrelease, pidfd, 0)));
	close(pidfd);
	TRY(check_emptied(cell));
	return let_go(cell);
}

static const char *memory_cgroup(const struct cell *cell)
{
	static char name[64];

	snprintf(name, sizeof(name), CGROUPS "/devexcl-%d",
		 cell->owner ?: getpid());
	return name;
}

static int write_cgroup(const struct cell *cell, const char *file,
			const char *text)
{
	char name[96];

	snprintf(name, sizeof(name), "%s/%s", memory_cgroup(cell), file);
	return write_file(name, text);
}

/* A group of our own, which cannot swap, and uses some memory. */
static const char *prepare_memory_cgroup(struct cell *cell)
{
	size_t ballast = 1 << 20;
	void *p;

	if (write_file(CGROUPS "/cgroup.subtree_control", "+memory"))
		return skip("no memory cgroups");
	TRY(must("mkdir", mkdir(memory_cgroup(cell), 0700)));
	TRY(must("memory.swap.max",
		 write_cgroup(cell, "memory.swap.max", "0")));
	TRY(must("cgroup.procs", write_cgroup(cell, "cgroup.procs", "0")));
	p = mmap(NULL, ballast, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return must("mmap", p == MAP_FAILED ? -1 : 0);
}

static const char *finish_memory_cgroup(struct cell *cell)
{
	return must("rmdir", rmdir(memory_cgroup(cell)));
}

static const char *kill_by_limit(struct cell *cell)
{
	return must("memory.max", write_cgroup(cell, "memory.max", "0"));
}

static const char *watch_oom_kill(struct cell *cell)
{
	TRY(kill_by_limit(cell));
	return wait_owner(cell, -SIGKILL);
}

/* The owner does not get out of the way, so the oom reaper empties it. */
static const char *watch_oom_reaper(struct cell *cell)
{
	TRY(catch_exit(cell));
	TRY(kill_by_limit(cell));
	TRY(wait_caught(cell));
	TRY(must("wait for event", dev_wait_event(&cell->dev, 20)));
	TRY(check_emptied(cell));
	return let_go(cell);
}

/* Children */

static const char *act_vfork(struct cell *cell)
{
	pid_t pid = vfork();

	(void)cell;
	if (!pid)
		_exit(0);
	return must("vfork", pid) ?: must("vfork", wait_child(pid));
}

/* The child leaves our address space alone when it gets one of its own. */
static const char *act_vfork_exec(struct cell *cell)
{
	pid_t pid = run_helper("nothing", 0, 1, 0, 0);
	int status;

	(void)cell;
	TRY(must("vfork", pid));
	status = wait_child(pid);
	return status ? fail("the child ended with %d", status) : NULL;
}

static int end_at_once(void *unused)
{
	(void)unused;
	return 0;
}

/* Another user of the address space ends. */
static const char *act_clone_vm(struct cell *cell)
{
	static uint64_t stack[8192];
	pid_t pid = clone(end_at_once, stack + ARRAY_SIZE(stack),
			  CLONE_VM | SIGCHLD, NULL);

	(void)cell;
	TRY(must("clone", pid));
	return must("wait", wait_child(pid));
}

static bool is_of_target(const struct cell *cell, size_t page)
{
	return page >= cell->first && page < cell->first + cell->pages;
}

/* In a child: it has what we had; and what it writes we do not see. */
static const char *check_copy(struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		char *p = page_of(&cell->mem, page);

		if (cell->held[page] && entry_of(p) != ENTRY_PRESENT)
			return fail("entry of page %zu is %s in the child",
				    page, entry_name(entry_of(p)));
		TRY(check_page(cell, page, p, false));
		if (cell->held[page])
			memset(p, 0xee, page_size());
	}
	return NULL;
}

static const char *act_fork(struct cell *cell)
{
	return claim_in_child(cell, check_copy);
}

static const char *prepare_madvise(struct cell *cell)
{
	return act_madvise(cell);
}

/* In a child: the target is not there, but the neighbours are. */
static const char *check_copy_without(struct cell *cell)
{
	uint64_t value;
	size_t page;

	for (page = 0; page < cell->mem.pages; page++) {
		if (!is_of_target(cell, page))
			TRY(check_page(cell, page, page_of(&cell->mem, page),
				       false));
		else if (cpu_read(word_of(&cell->mem, page), &value) !=
			 SEGV_MAPERR)
			return fail("page %zu is in the child", page);
	}
	return NULL;
}

static const char *act_fork_without(struct cell *cell)
{
	return claim_in_child(cell, check_copy_without);
}

/* In a child: the target is empty. */
static const char *check_copy_wiped(struct cell *cell)
{
	size_t page;

	for (page = 0; page < cell->mem.pages; page++)
		TRY(check_page(cell, page, page_of(&cell->mem, page),
			       is_of_target(cell, page)));
	return NULL;
}

static const char *act_fork_wiped(struct cell *cell)
{
	return claim_in_child(cell, check_copy_wiped);
}

/* Others who look at our memory and change it */

/*
 * In the other process: read the beginning of a page of its parent into
 * @words, or write it.
 */
static bool peek(pid_t pid, uintptr_t addr, uint64_t *words, bool write)
{
	size_t i;

	for (i = 0; i < HEAD_WORDS; i++) {
		void *p = (uint64_t *)addr + i;

		errno = 0;
		if (write)
			ptrace(PTRACE_POKEDATA, pid, p, words[i]);
		else
			words[i] = ptrace(PTRACE_PEEKDATA, pid, p, NULL);
		if (errno)
			return false;
	}
	return true;
}

static bool process_vm(pid_t pid, uintptr_t addr, uint64_t *words, bool write)
{
	struct iovec ours = { words, HEAD_SIZE };
	struct iovec theirs = { (void *)addr, HEAD_SIZE };

	return (write ? process_vm_writev(pid, &ours, 1, &theirs, 1, 0) :
			process_vm_readv(pid, &ours, 1, &theirs, 1, 0)) ==
	       HEAD_SIZE;
}

static bool proc_mem(pid_t pid, uintptr_t addr, uint64_t *words, bool write)
{
	char name[64];
	bool ret;
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	fd = open(name, O_RDWR | O_CLOEXEC);
	ret = (write ? pwrite(fd, words, HEAD_SIZE, addr) :
		       pread(fd, words, HEAD_SIZE, addr)) == HEAD_SIZE;
	close(fd);
	return ret;
}

/* By which of these. */
enum way {
	WAY_PTRACE,
	WAY_PROCESS_VM,
	WAY_PROC_MEM,
	NR_WAYS,
	WAY_MASK = 3,
	WAY_WRITES = 4,
	WAY_FORCED = 8,		/* what we may not write ourselves */
};

static bool (* const ways[NR_WAYS])(pid_t pid, uintptr_t addr, uint64_t *words,
				    bool write) = {
	[WAY_PTRACE] = peek,
	[WAY_PROCESS_VM] = process_vm,
	[WAY_PROC_MEM] = proc_mem,
};

/* While we trace our parent it stands still. */
static bool stop_parent(pid_t pid)
{
	return !ptrace(PTRACE_SEIZE, pid, NULL, NULL) &&
	       !ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) &&
	       waitpid(pid, NULL, __WALL) == pid;
}

/* The words come from standard input, and go to standard output. */
static int access_parent(pid_t pid, unsigned long way, uintptr_t addr)
{
	uint64_t words[MAX_TARGET][HEAD_WORDS];
	ssize_t i, size = read(0, words, sizeof(words));

	if ((way & WAY_MASK) == WAY_PTRACE && !stop_parent(pid))
		return 2;
	for (i = 0; i < size / (ssize_t)HEAD_SIZE; i++)
		if (!ways[way & WAY_MASK](pid, addr + i * page_size(),
					  words[i], way & WAY_WRITES))
			return 3;
	if ((way & WAY_MASK) == WAY_PTRACE)
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return write(1, words, size) == size ? 0 : 4;
}

/* What is written to a page by another process. */
static uint64_t other_word(size_t page, size_t word)
{
	return ~pattern_word(page, word + 1);
}

/* Tell the other process how many pages there are, and what to write there. */
static const char *send_words(struct cell *cell, int out)
{
	uint64_t words[MAX_TARGET][HEAD_WORDS];
	ssize_t size = cell->pages * HEAD_SIZE;
	size_t page, i;

	for (page = 0; page < cell->pages; page++)
		for (i = 0; i < HEAD_WORDS; i++)
			words[page][i] = other_word(cell->first + page, i);
	return must("write", write(out, words, size) == size ? 0 : -EPIPE);
}

/* What the other process has read; nothing new, if it wrote. */
static const char *receive_words(struct cell *cell, int in)
{
	bool wrote = cell->op->arg & WAY_WRITES;
	uint64_t words[MAX_TARGET][HEAD_WORDS];
	ssize_t size = cell->pages * HEAD_SIZE;
	size_t n, i;

	if (read(in, words, size) != size)
		return NULL;	/* its exit status tells why */
	for (n = 0; n < cell->pages && !wrote; n++) {
		for (i = 0; i < HEAD_WORDS; i++) {
			uint64_t want = expected_word(cell, cell->first + n, i);

			if (words[n][i] != want)
				return fail("page %zu word %zu is %#llx from outside, not %#llx",
					    cell->first + n, i,
					    (unsigned long long)words[n][i],
					    (unsigned long long)want);
		}
	}
	return NULL;
}

/* The CPU finds what was written from outside, and puts back what was there. */
static const char *undo_writes(struct cell *cell)
{
	size_t page, i;

	for (page = cell->first; page < cell->first + cell->pages; page++) {
		for (i = 0; i < HEAD_WORDS; i++) {
			uint64_t *word = word_of(&cell->mem, page) + i;

			if (READ_MEM(word) != other_word(page, i))
				return fail("page %zu word %zu was not written from outside",
					    page, i);
			WRITE_MEM(word, expected_word(cell, page, i));
		}
	}
	return NULL;
}

static const char *protect_target(struct cell *cell, int prot)
{
	if (!(cell->op->arg & WAY_FORCED))
		return NULL;
	return must("mprotect", mprotect(target(cell), target_size(cell),
					 prot));
}

static const char *act_from_outside(struct cell *cell)
{
	unsigned long way = cell->op->arg & ~WAY_FORCED;
	const char *ret;
	int in[2], out[2];
	int status;
	pid_t pid;

	TRY(must("pipe", pipe2(in, O_CLOEXEC)));
	TRY(must("pipe", pipe2(out, O_CLOEXEC)));
	TRY(protect_target(cell, PROT_READ));
	pid = run_helper("access_parent", out[0], in[1], way,
			 (uintptr_t)target(cell));
	TRY(must("vfork", pid));
	close(out[0]);
	close(in[1]);
	ret = send_words(cell, out[1]) ?: receive_words(cell, in[0]);
	close(out[1]);
	status = wait_child(pid);
	TRY(ret);
	if (status)
		return fail("the other process ended with %d", status);
	TRY(protect_target(cell, PROT_READ | PROT_WRITE));
	return cell->op->arg & WAY_WRITES ? undo_writes(cell) : NULL;
}

static const struct operation ops[] = {
	{
		.name = "exit",
		.act = act_exit,
		.watch = watch_exit,
		.expect = OWNER_ENDS,
	}, {
		.name = "exit_threads",
		.act = act_exit_with_threads,
		.watch = watch_exit,
		.expect = OWNER_ENDS_AT_WORK,
	}, {
		.name = "sigkill",
		.act = act_nothing,
		.watch = watch_kill,
		.expect = OWNER_ENDS,
	}, {
		.name = "sigkill_acquire",
		.act = act_acquire_for_ever,
		.watch = watch_kill_at_work,
		.expect = OWNER_ENDS_AT_WORK,
	}, {
		.name = "sigkill_atomic",
		.act = act_atomics_for_ever,
		.watch = watch_kill_at_work,
		.expect = OWNER_ENDS_AT_WORK,
	}, {
		.name = "exec",
		.act = act_exec,
		.watch = watch_exit,
		.expect = OWNER_ENDS,
	}, {
		.name = "core_dump",
		.prepare = prepare_core,
		.act = act_abort,
		.watch = watch_abort,
		.finish = finish_core,
		.expect = { TAKEN, CAUSE_FAULT, ENTRY_ANY, DATA_GONE },
		.except = { TRAIT_DRIVER, "mappings of drivers are not dumped" },
	}, {
		.name = "core_dump_without",
		.prepare = prepare_core_without,
		.act = act_abort,
		.watch = watch_abort,
		.finish = finish_core_without,
		.expect = OWNER_ENDS,
	}, {
		.name = "process_mrelease",
		.act = act_nothing,
		.watch = watch_mrelease,
		.expect = OWNER_ENDS_AT_WORK,
	}, {
		.name = "oom_kill",
		.prepare = prepare_memory_cgroup,
		.act = act_nothing,
		.watch = watch_oom_kill,
		.finish = finish_memory_cgroup,
		/* The owner is quicker than the reaper as a rule. */
		.expect = { TAKEN, CAUSE(RELEASE) | CAUSE(CLEAR) |
			    CAUSE(UNMAP), ENTRY_ANY, DATA_GONE },
	}, {
		.name = "oom_reaper",
		.prepare = prepare_memory_cgroup,
		.act = act_nothing,
		.watch = watch_oom_reaper,
		.finish = finish_memory_cgroup,
		.expect = OWNER_ENDS_AT_WORK,
		.needs = { TRAIT_TYPICAL, "the oom reaper waits two seconds" },
		.except = { TRAIT_LARGE, "the oom reaper waits two seconds" },
		.all_held = "the oom reaper waits two seconds",
	}, {
		.name = "fork",
		.act = act_fork,
		.expect = { TAKEN, CAUSE(PROTECTION_PAGE), ENTRY_IS(PRESENT),
			    DATA_KEPT, .reach = REACH_ALL },
	}, {
		.name = "fork_dontfork",
		.prepare = prepare_madvise, .arg = MADV_DONTFORK,
		.act = act_fork_without,
		.expect = { NOT_TAKEN, CAUSE(PROTECTION_PAGE),
			    ENTRY_IS(EXCLUSIVE), DATA_KEPT,
			    .neighbours_too = true },
		.except = { TRAIT_STACK, "a stack grows where it has a hole" },
	}, {
		.name = "fork_wipeonfork",
		.prepare = prepare_madvise, .arg = MADV_WIPEONFORK,
		.act = act_fork_wiped,
		.expect = { NOT_TAKEN, CAUSE(PROTECTION_PAGE),
			    ENTRY_IS(EXCLUSIVE), DATA_KEPT,
			    .neighbours_too = true },
		.except = { TRAIT_FILE, "only anonymous memory is wiped" },
	}, {
		.name = "vfork",
		.act = act_vfork,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "vfork_exec",
		.act = act_vfork_exec,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "clone_vm",
		.act = act_clone_vm,
		.expect = DEVICE_KEEPS,
	}, {
		.name = "ptrace_peek",
		.act = act_from_outside, .arg = WAY_PTRACE,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "ptrace_poke",
		.act = act_from_outside, .arg = WAY_PTRACE | WAY_WRITES,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "process_vm_readv",
		.act = act_from_outside, .arg = WAY_PROCESS_VM,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "process_vm_writev",
		.act = act_from_outside, .arg = WAY_PROCESS_VM | WAY_WRITES,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "proc_mem_read",
		.act = act_from_outside, .arg = WAY_PROC_MEM,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "proc_mem_write",
		.act = act_from_outside, .arg = WAY_PROC_MEM | WAY_WRITES,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		/* To memory that may only be read, as debuggers do. */
		.name = "ptrace_poke_forced",
		.act = act_from_outside,
		.arg = WAY_PTRACE | WAY_WRITES | WAY_FORCED,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(PRESENT),
			    DATA_KEPT, .splits = SPLITS_VMA },
	},
};

/* What run_helper() runs. */
static int helper(char **argv)
{
	const char *what = argv[2];
	pid_t parent = atoi(argv[3]);
	unsigned long a = strtoul(argv[4], NULL, 0);
	unsigned long b = strtoul(argv[5], NULL, 0);

	if (!strcmp(what, "use_context"))
		return use_context(a, b);
	if (!strcmp(what, "access_parent"))
		return access_parent(parent, a, b);
	return strcmp(what, "nothing") ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "--helper"))
		return helper(argv);
	return matrix_main("process", ops, ARRAY_SIZE(ops), argc, argv);
}
