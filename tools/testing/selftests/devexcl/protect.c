// SPDX-License-Identifier: GPL-2.0
/*
 * The protection of memory changes while a device holds its pages: the device
 * is told, exactly for the pages concerned; the data stays; and when the CPU
 * gets a page back, it may do with it what the protection allows and no more
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "devexcl_test.h"

#define PAGES	4
#define FIRST	1	/* where a part of the memory begins */
#define PART	2	/* and how many pages it has */
#define CYCLES	50

#define PROT_RW	(PROT_READ | PROT_WRITE)

FIXTURE(protect) {
	struct dev dev;
	struct mem mem;
};

FIXTURE_SETUP(protect)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
}

FIXTURE_TEARDOWN(protect)
{
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

static int protect_pages(const struct mem *mem, size_t first, size_t pages,
			 int prot)
{
	return mprotect(page_of(mem, first), pages * page_size(), prot);
}

static int protect_all(const struct mem *mem, int prot)
{
	return protect_pages(mem, 0, mem->pages, prot);
}

/*
 * The device has let go of these pages for a change of protection, and of no
 * others; nobody has touched them since.
 */
#define expect_taken_by_protection(self, first, pages)			\
do {									\
	expect_taken(&(self)->dev, &(self)->mem, first, pages,		\
		     CAUSE(PROTECTION_VMA));				\
	expect_entries(&(self)->mem, first, pages, ENTRY_EXCLUSIVE);	\
} while (0)

/* Reading works, and finds the pattern. */
#define expect_readable(self, first, pages)				\
do {									\
	expect_data(&(self)->mem, first, pages);			\
	expect_entries(&(self)->mem, first, pages, ENTRY_PRESENT);	\
} while (0)

/* No page can be written to: each attempt ends with a signal. */
static const char *check_not_writable(const struct mem *mem, size_t first,
				      size_t pages)
{
	size_t page;

	for (page = first; page < first + pages; page++)
		if (cpu_write(word_of(mem, page), 1) != SEGV_ACCERR)
			return "a protected page could be written to";
	return NULL;
}

#define expect_not_writable(self, first, pages)				\
	expect_claim(check_not_writable(&(self)->mem, first, pages))

static const char *check_not_readable(const struct mem *mem, size_t first,
				      size_t pages)
{
	uint64_t value;
	size_t page;

	for (page = first; page < first + pages; page++)
		if (cpu_read(word_of(mem, page), &value) != SEGV_ACCERR)
			return "a protected page could be read";
	return NULL;
}

#define expect_not_readable(self, first, pages)				\
	expect_claim(check_not_readable(&(self)->mem, first, pages))

static const char *check_writable(const struct mem *mem)
{
	size_t page;

	for (page = 0; page < mem->pages; page++)
		if (cpu_write(word_of(mem, page), pattern_of(mem, page)))
			return "a page cannot be written to";
	return NULL;
}

/* The end of each test: all is as it was, writable, and the device works. */
#define expect_as_before(self)						\
do {									\
	ASSERT_EQ(0, protect_all(&(self)->mem, PROT_RW));		\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_claim(check_writable(&(self)->mem));			\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

TEST_F(protect, read_only)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_as_before(self);
}

/* The write comes first, when the entry is still exclusive. */
TEST_F(protect, read_only_write)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

TEST_F(protect, none)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_NONE));
	expect_taken_by_protection(self, 0, PAGES);
	expect_not_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_as_before(self);
}

/* Step by step from nothing to everything. */
TEST_F(protect, none_read_write)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_NONE));
	expect_taken_by_protection(self, 0, PAGES);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

TEST_F(protect, read_exec)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ | PROT_EXEC));
	expect_taken_by_protection(self, 0, PAGES);
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

/* More is allowed than before: the device is told all the same. */
TEST_F(protect, read_write_exec)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW | PROT_EXEC));
	expect_taken_by_protection(self, 0, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_as_before(self);
}

/* Nothing changes, so nobody need be told. */
TEST_F(protect, unchanged)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_as_before(self);
}

/* The VMA is split, and merged again. */
TEST_F(protect, part)
{
	ASSERT_EQ(0, protect_pages(&self->mem, FIRST, PART, PROT_READ));
	expect_taken_by_protection(self, FIRST, PART);
	expect_held(&self->dev, &self->mem, 0, FIRST);
	expect_held(&self->dev, &self->mem, FIRST + PART, PAGES - FIRST - PART);
	expect_readable(self, FIRST, PART);
	expect_not_writable(self, FIRST, PART);

	ASSERT_EQ(0, protect_pages(&self->mem, FIRST, PART, PROT_RW));
	expect_nothing_taken(&self->dev, &self->mem);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_as_before(self);
}

TEST_F(protect, neighbours)
{
	ASSERT_EQ(0, protect_pages(&self->mem, 0, FIRST, PROT_READ));
	expect_taken_by_protection(self, 0, FIRST);
	ASSERT_EQ(0, protect_pages(&self->mem, FIRST + PART,
				   PAGES - FIRST - PART, PROT_NONE));
	expect_taken_by_protection(self, FIRST + PART, PAGES - FIRST - PART);
	expect_held(&self->dev, &self->mem, FIRST, PART);
	expect_as_before(self);
}

/* What the device wrote last is what the CPU reads. */
TEST_F(protect, device_wrote)
{
	uint64_t *word = word_of(&self->mem, FIRST), old;

	ASSERT_EQ(0, dev_add(&self->dev, word, 5, &old));
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	EXPECT_EQ(-EACCES, dev_add(&self->dev, word, 1, NULL));
	EXPECT_EQ(old + 5, READ_MEM(word));
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	acquire_pages(&self->dev, &self->mem, FIRST, 1);
	ASSERT_EQ(0, dev_add(&self->dev, word, -5, NULL));
	expect_as_before(self);
}

/* The device had let go before: there is nobody to tell. */
TEST_F(protect, after_release)
{
	ASSERT_EQ(PAGES, dev_release(&self->dev, self->mem.p, PAGES));
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

/* A device that may not write cannot be exclusive, and that is all. */
TEST_F(protect, acquire_refused)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_readable(self, 0, PAGES);
	dev_forget_events(&self->dev);
	EXPECT_EQ(-EFAULT, dev_acquire(&self->dev, self->mem.p, PAGES));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_readable(self, 0, PAGES);
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

/* The same while the entry is still exclusive: it stays so. */
TEST_F(protect, acquire_refused_exclusive)
{
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	EXPECT_EQ(-EFAULT, dev_acquire(&self->dev, self->mem.p, PAGES));
	expect_nothing_taken(&self->dev, &self->mem);
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_as_before(self);
}

/* Those that are writable the device gets. */
TEST_F(protect, acquire_mixed)
{
	int32_t status[PAGES] = {};
	size_t page;

	ASSERT_EQ(PAGES, dev_release(&self->dev, self->mem.p, PAGES));
	expect_data(&self->mem, 0, PAGES);
	ASSERT_EQ(0, protect_pages(&self->mem, FIRST, PART, PROT_READ));
	dev_forget_events(&self->dev);
	EXPECT_EQ(PAGES - PART, dev_acquire_status(&self->dev, self->mem.p,
						   PAGES, status));
	for (page = 0; page < PAGES; page++)
		EXPECT_EQ(page < FIRST || page >= FIRST + PART ? 0 : -EFAULT,
			  status[page]);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, FIRST);
	expect_readable(self, FIRST, PART);
	expect_held(&self->dev, &self->mem, FIRST + PART, PAGES - FIRST - PART);
	expect_as_before(self);
}

/* The device reads what it may read, without being exclusive. */
TEST_F(protect, device_reads)
{
	uint64_t value;

	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	ASSERT_EQ(0, dev_read_word(&self->dev, word_of(&self->mem, 0), &value));
	EXPECT_EQ(pattern_of(&self->mem, 0), value);
	EXPECT_EQ(-EFAULT, dev_write_word(&self->dev, word_of(&self->mem, 0), 1));
	expect_not_writable(self, 0, PAGES);
	expect_as_before(self);
}

/* A child stops us, and writes to our memory as a debugger does. */
static int debugger_writes(pid_t pid, uint64_t *word, uint64_t value)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) ||
	    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) ||
	    waitpid(pid, &status, __WALL) != pid)
		return 1;
	if (ptrace(PTRACE_POKEDATA, pid, word, value))
		return 2;
	return ptrace(PTRACE_DETACH, pid, NULL, NULL) ? 3 : 0;
}

/* It may write where the process may not, and leaves it at that. */
TEST_F(protect, debugger_writes)
{
	uint64_t *word = word_of(&self->mem, FIRST);
	pid_t us = getpid(), pid;

	/* The fork would restore the entries. */
	ASSERT_EQ(0, madvise(self->mem.p, self->mem.size, MADV_DONTFORK));
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(debugger_writes(us, word, 99));
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(99, READ_MEM(word));
	expect_not_writable(self, FIRST, 1);
	EXPECT_EQ(99, READ_MEM(word));
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	fill_mem(&self->mem);
	expect_as_before(self);
}

/* Another system call is refused, as the CPU is. */
TEST_F(protect, read_syscall)
{
	uint64_t value = 99;
	struct gate gate;

	ASSERT_EQ(0, gate_init(&gate));
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_taken_by_protection(self, 0, PAGES);
	ASSERT_EQ(sizeof(value), write(gate.pipe[1], &value, sizeof(value)));
	EXPECT_EQ(-1, read(gate.pipe[0], word_of(&self->mem, 0), 8));
	EXPECT_EQ(EFAULT, errno);
	expect_as_before(self);
}

/* Device and CPU take turns, with a read-only time in between. */
TEST_F(protect, cycles)
{
	uint64_t *word = word_of(&self->mem, FIRST);
	uint64_t was = pattern_of(&self->mem, FIRST);
	int i;

	for (i = 0; i < CYCLES; i++) {
		acquire_pages(&self->dev, &self->mem, 0, PAGES);
		ASSERT_EQ(0, dev_add(&self->dev, word, 1, NULL));
		ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
		expect_taken_by_protection(self, 0, PAGES);
		ASSERT_EQ(was + 2 * i + 1, READ_MEM(word));
		expect_not_writable(self, FIRST, 1);
		ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
		__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
	}
	EXPECT_EQ(was + 2 * CYCLES, READ_MEM(word));
	WRITE_MEM(word, was);
	expect_as_before(self);
}

/* The entries stay exclusive from one protection to the next. */
TEST_F(protect, cycles_untouched)
{
	int i;

	for (i = 0; i < CYCLES; i++) {
		ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
		ASSERT_EQ(0, protect_all(&self->mem, PROT_NONE));
		ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	}
	expect_taken_by_protection(self, 0, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_as_before(self);
}

/**
 * struct counting - a thread that counts with the device
 * @dev: the device
 * @word: what it counts in
 * @counted: how often it did
 * @refused: how often it was not allowed to
 * @error: why it stopped, if it did
 * @stop: it shall
 */
struct counting {
	struct dev *dev;
	uint64_t *word;
	uint64_t counted;
	uint64_t refused;
	long error;
	bool stop;
};

static void *count_with_device(void *data)
{
	struct counting *counting = data;
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)counting->word,
		.operand = 1,
		.op = DEVEXCL_OP_ADD,
		.width = sizeof(uint64_t),
	};

	while (!READ_MEM(&counting->stop)) {
		long ret = dev_atomic(counting->dev, &op, 1,
				      DEVEXCL_ATOMIC_ACQUIRE |
				      DEVEXCL_ATOMIC_GAP, 1000);

		if (ret == 1) {
			WRITE_MEM(&counting->counted, counting->counted + 1);
		} else if (ret == -EFAULT) {
			WRITE_MEM(&counting->refused, counting->refused + 1);
		} else if (ret != -EBUSY) {
			counting->error = ret;
			break;
		}
	}
	return NULL;
}

static void await_more(const uint64_t *count)
{
	uint64_t was = READ_MEM(count);

	while (READ_MEM(count) == was)
		sched_yield();
}

/*
 * The device never stops. While the page is read-only it cannot count, and
 * the word stays what it is; whatever it says it did, it did.
 */
TEST_F(protect, while_device_works)
{
	struct counting counting = {
		.dev = &self->dev,
		.word = word_of(&self->mem, FIRST),
	};
	uint64_t was = *counting.word, seen;
	pthread_t thread;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, count_with_device,
				    &counting));
	for (i = 0; i < CYCLES; i++) {
		await_more(&counting.counted);
		ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
		seen = READ_MEM(counting.word);
		await_more(&counting.refused);
		ASSERT_EQ(seen, READ_MEM(counting.word));
		ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
		__atomic_fetch_add(counting.word, 1, __ATOMIC_SEQ_CST);
	}
	WRITE_MEM(&counting.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, counting.error);
	EXPECT_EQ(was + counting.counted + CYCLES, READ_MEM(counting.word));
	WRITE_MEM(counting.word, was);
	expect_as_before(self);
}

/*
 * Soft-dirty bits: who clears them and looks again later must find each page
 * that was written to since, by whomever, and should find no other
 */
FIXTURE(protect_soft_dirty) {
	struct dev dev;
	struct mem mem;
};

FIXTURE_SETUP(protect_soft_dirty)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	if (!clear_soft_dirty())
		SKIP_SETUP("the kernel does not track soft-dirty pages");
}

FIXTURE_TEARDOWN(protect_soft_dirty)
{
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

#define expect_soft_dirty(self, first, pages, dirty)			\
	expect_claim(check_soft_dirty(&(self)->mem, first, pages, dirty))

#define expect_data_and_references(self)				\
do {									\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_references(&(self)->dev, &(self)->mem);			\
} while (0)

/* The device must not write any more without being noticed. */
TEST_F(protect_soft_dirty, device_is_told)
{
	expect_taken(&self->dev, &self->mem, 0, PAGES, CAUSE(SOFT_DIRTY));
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_soft_dirty(self, 0, PAGES, false);
	expect_data_and_references(self);
}

TEST_F(protect_soft_dirty, cpu_reads)
{
	expect_data(&self->mem, 0, PAGES);
	expect_entries(&self->mem, 0, PAGES, ENTRY_PRESENT);
	expect_soft_dirty(self, 0, PAGES, false);
	expect_data_and_references(self);
}

TEST_F(protect_soft_dirty, cpu_writes)
{
	WRITE_MEM(word_of(&self->mem, 1), pattern_of(&self->mem, 1));
	expect_soft_dirty(self, 0, 1, false);
	expect_soft_dirty(self, 1, 1, true);
	expect_soft_dirty(self, 2, 2, false);
	expect_data_and_references(self);
}

/* The page is back already, by a read, and must not have become writable. */
TEST_F(protect_soft_dirty, cpu_writes_after_read)
{
	expect_data(&self->mem, 0, PAGES);
	WRITE_MEM(word_of(&self->mem, 1), pattern_of(&self->mem, 1));
	expect_soft_dirty(self, 1, 1, true);
	expect_soft_dirty(self, 0, 1, false);
	expect_soft_dirty(self, 2, 2, false);
	expect_data_and_references(self);
}

/*
 * The device writes without anybody noticing, so a page counts as written to
 * from the moment on that the device has it.
 */
TEST_F(protect_soft_dirty, device_acquires)
{
	acquire_pages(&self->dev, &self->mem, 1, 2);
	expect_soft_dirty(self, 1, 2, true);
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 1), 0, NULL));
	expect_soft_dirty(self, 0, 1, false);
	expect_soft_dirty(self, 3, 1, false);

	/* It stays so when the CPU takes the page, and if nobody wrote. */
	expect_data(&self->mem, 1, 2);
	expect_entries(&self->mem, 1, 2, ENTRY_PRESENT);
	expect_soft_dirty(self, 1, 2, true);
	expect_data_and_references(self);
}

/* The next look begins where the last one ended. */
TEST_F(protect_soft_dirty, cleared_again)
{
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 1), 0, NULL));
	expect_soft_dirty(self, 0, PAGES, true);
	ASSERT_TRUE(clear_soft_dirty());
	expect_taken(&self->dev, &self->mem, 0, PAGES, CAUSE(SOFT_DIRTY));
	EXPECT_EQ(-EACCES,
		  dev_add(&self->dev, word_of(&self->mem, 1), 1, NULL));
	expect_soft_dirty(self, 0, PAGES, false);
	acquire_pages(&self->dev, &self->mem, 1, 1);
	expect_soft_dirty(self, 1, 1, true);
	expect_soft_dirty(self, 2, 2, false);
	expect_data_and_references(self);
}

/* A change of protection is no write, and hides none. */
TEST_F(protect_soft_dirty, mprotect)
{
	acquire_pages(&self->dev, &self->mem, 1, 2);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_soft_dirty(self, 0, 1, false);
	expect_soft_dirty(self, 1, 2, true);
	expect_soft_dirty(self, 3, 1, false);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	expect_data(&self->mem, 0, PAGES);
	expect_soft_dirty(self, 0, 1, false);
	expect_soft_dirty(self, 1, 2, true);
	expect_soft_dirty(self, 3, 1, false);
	expect_data_and_references(self);
}

/* Memory protection keys: pages are denied to a thread, not to the process */
FIXTURE(protect_pkey) {
	struct dev dev;
	struct mem mem;
	int pkey;
};

FIXTURE_SETUP(protect_pkey)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	self->pkey = pkey_alloc(0, 0);
	if (self->pkey < 0)
		SKIP_SETUP("no memory protection keys: %s", strerror(errno));
}

FIXTURE_TEARDOWN(protect_pkey)
{
	if (self->pkey > 0)
		pkey_free(self->pkey);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

static int give_key(const struct mem *mem, int pkey)
{
	return pkey_mprotect(mem->p, mem->size, PROT_RW, pkey);
}

/* Each page refuses to be written to, or also to be read, for its key. */
static const char *check_denied(const struct mem *mem, int pkey,
				unsigned int rights)
{
	int refused = rights & PKEY_DISABLE_ACCESS ? SEGV_PKUERR : 0;
	uint64_t value;
	size_t page;

	for (page = 0; page < mem->pages; page++) {
		/* A signal that is not returned from leaves its own rights. */
		pkey_set(pkey, rights);
		if (cpu_read(word_of(mem, page), &value) != refused)
			return refused ? "a denied page could be read" :
			       "a page could not be read";
		pkey_set(pkey, rights);
		if (cpu_write(word_of(mem, page), 1) != SEGV_PKUERR)
			return "a denied page could be written to";
	}
	return NULL;
}

#define expect_denied(self, rights)					\
	expect_claim(check_denied(&(self)->mem, (self)->pkey, rights))

#define expect_allowed(self)						\
do {									\
	ASSERT_EQ(0, pkey_set((self)->pkey, 0));			\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_claim(check_writable(&(self)->mem));			\
} while (0)

TEST_F(protect_pkey, key_given)
{
	ASSERT_EQ(0, give_key(&self->mem, self->pkey));
	expect_taken_by_protection(self, 0, PAGES);
	expect_allowed(self);
	expect_references(&self->dev, &self->mem);
}

/* The key is still there when the page is back. */
TEST_F(protect_pkey, restored)
{
	ASSERT_EQ(0, give_key(&self->mem, self->pkey));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_data(&self->mem, 0, PAGES);
	expect_entries(&self->mem, 0, PAGES, ENTRY_PRESENT);
	expect_denied(self, PKEY_DISABLE_WRITE);
	expect_denied(self, PKEY_DISABLE_ACCESS);
	expect_allowed(self);
	expect_references(&self->dev, &self->mem);
}

/* The device is no thread. It may, and who is denied takes nothing from it. */
TEST_F(protect_pkey, held)
{
	ASSERT_EQ(0, give_key(&self->mem, self->pkey));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_denied(self, PKEY_DISABLE_ACCESS);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 0), 0, NULL));
	expect_allowed(self);
	expect_references(&self->dev, &self->mem);
}

/* The key is given while the entry is exclusive, and denies at once. */
TEST_F(protect_pkey, given_exclusive)
{
	ASSERT_EQ(0, give_key(&self->mem, self->pkey));
	expect_taken_by_protection(self, 0, PAGES);
	expect_denied(self, PKEY_DISABLE_ACCESS);
	expect_entries(&self->mem, 0, PAGES, ENTRY_EXCLUSIVE);
	expect_denied(self, PKEY_DISABLE_WRITE);
	expect_entries(&self->mem, 0, PAGES, ENTRY_PRESENT);
	expect_allowed(self);
	expect_references(&self->dev, &self->mem);
}

/* The key is taken away: nothing is denied any more. */
TEST_F(protect_pkey, taken_away)
{
	ASSERT_EQ(0, give_key(&self->mem, self->pkey));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, pkey_set(self->pkey, PKEY_DISABLE_ACCESS));
	ASSERT_EQ(0, give_key(&self->mem, 0));
	expect_taken_by_protection(self, 0, PAGES);
	expect_data(&self->mem, 0, PAGES);
	expect_claim(check_writable(&self->mem));
	expect_references(&self->dev, &self->mem);
}

/**
 * struct handler - a userfaultfd, and a thread that permits each access
 * @uffd: the userfaultfd
 * @rwp: it protects from reading, too
 * @stop: the thread waits here for its end
 * @thread: the thread
 * @handled: times that it was asked
 * @flags: what for, the last time
 * @address: and for which page
 */
struct handler {
	int uffd;
	bool rwp;
	struct gate stop;
	pthread_t thread;
	uint64_t handled;
	uint64_t flags;
	uint64_t address;
};

/*
 * Write protection by userfaultfd: a handler decides about each write. A
 * device that wants to be exclusive is one who writes.
 */
FIXTURE(protect_uffd) {
	struct dev dev;
	struct mem mem;
	struct handler handler;
};

/* Userfaultfd with a feature, or -1. */
static int open_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int register_memory(int uffd, const struct mem *mem, uint64_t mode)
{
	struct uffdio_register arg = {
		.range = { .start = (uintptr_t)mem->p, .len = mem->size },
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &arg);
}

static int write_protect(int uffd, const void *p, size_t pages, bool on)
{
	struct uffdio_writeprotect arg = {
		.range = { .start = (uintptr_t)p, .len = pages * page_size() },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg);
}

static int rw_protect(int uffd, const void *p, size_t pages, bool on)
{
	struct uffdio_rwprotect arg = {
		.range = { .start = (uintptr_t)p, .len = pages * page_size() },
		.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return ioctl(uffd, UFFDIO_RWPROTECT, &arg);
}

static void permit_access(struct handler *handler, struct uffd_msg *msg)
{
	uint64_t address = msg->arg.pagefault.address & ~(page_size() - 1ULL);
	void *page = (void *)(uintptr_t)address;

	handler->flags = msg->arg.pagefault.flags;
	handler->address = address;
	__atomic_fetch_add(&handler->handled, 1, __ATOMIC_SEQ_CST);
	if (handler->rwp)
		rw_protect(handler->uffd, page, 1, false);
	else
		write_protect(handler->uffd, page, 1, false);
}

static void *handle(void *data)
{
	struct handler *handler = data;
	struct pollfd fds[] = {
		{ .fd = handler->uffd, .events = POLLIN },
		{ .fd = handler->stop.pipe[0], .events = POLLIN },
	};
	struct uffd_msg msg;

	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		if (read(handler->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT)
			permit_access(handler, &msg);
	}
	return NULL;
}

/* Start the handler of some memory, for a userfaultfd that is open. */
static int start_handler(struct handler *handler, const struct mem *mem)
{
	uint64_t mode = handler->rwp ? UFFDIO_REGISTER_MODE_RWP :
			UFFDIO_REGISTER_MODE_WP;

	if (register_memory(handler->uffd, mem, mode))
		return -errno;
	return gate_init(&handler->stop) ?:
	       -pthread_create(&handler->thread, NULL, handle, handler);
}

/* A zeroed structure is left alone. */
static void stop_handler(struct handler *handler)
{
	if (handler->thread) {
		gate_open(&handler->stop);
		pthread_join(handler->thread, NULL);
	}
	if (handler->uffd > 0)
		close(handler->uffd);
}

FIXTURE_SETUP(protect_uffd)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	self->handler.uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	if (self->handler.uffd < 0)
		SKIP_SETUP("no write protection by userfaultfd");
	ASSERT_EQ(0, start_handler(&self->handler, &self->mem));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
}

FIXTURE_TEARDOWN(protect_uffd)
{
	stop_handler(&self->handler);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

static const char *check_uffd_wp(const struct mem *mem, size_t first,
				 size_t pages, bool wp)
{
	size_t page;

	for (page = first; page < first + pages; page++)
		if (!!(pagemap_of(page_of(mem, page)) & PAGEMAP_UFFD_WP) != wp)
			return wp ? "a page lost its write protection" :
			       "a page is write-protected";
	return NULL;
}

#define expect_uffd_wp(self, first, pages, wp)				\
	expect_claim(check_uffd_wp(&(self)->mem, first, pages, wp))

/* The handler was asked once since the last time, about this page. */
static const char *check_handled(struct handler *handler,
				 const struct mem *mem, size_t page)
{
	uint64_t flag = handler->rwp ? UFFD_PAGEFAULT_FLAG_RWP :
			UFFD_PAGEFAULT_FLAG_WP;

	if (__atomic_exchange_n(&handler->handled, 0, __ATOMIC_SEQ_CST) != 1)
		return "the handler was not asked once";
	if (!(handler->flags & flag))
		return "the handler was asked for another reason";
	if (handler->address != (uintptr_t)page_of(mem, page))
		return "the handler was asked about another page";
	return NULL;
}

#define expect_handled(self, page)					\
	expect_claim(check_handled(&(self)->handler, &(self)->mem, page))

#define expect_nothing_handled(self)					\
	EXPECT_EQ(0, __atomic_load_n(&(self)->handler.handled,		\
				     __ATOMIC_SEQ_CST))

/* Protect the middle of the memory, which the device holds. */
#define protect_part_by_uffd(self)					\
do {									\
	ASSERT_EQ(0, write_protect((self)->handler.uffd,		\
				   page_of(&(self)->mem, FIRST), PART,	\
				   true));				\
	expect_taken_by_protection(self, FIRST, PART);			\
	expect_uffd_wp(self, FIRST, PART, true);			\
} while (0)

/* Lift what is left of it. Then nobody asks the handler any more. */
#define expect_unprotected_as_before(self)				\
do {									\
	expect_nothing_handled(self);					\
	ASSERT_EQ(0, write_protect((self)->handler.uffd,		\
				   (self)->mem.p, PAGES, false));	\
	expect_uffd_wp(self, 0, PAGES, false);				\
	expect_data(&(self)->mem, 0, PAGES);				\
	expect_claim(check_writable(&(self)->mem));			\
	expect_references(&(self)->dev, &(self)->mem);			\
	expect_nothing_handled(self);					\
} while (0)

static void write_pattern(const struct mem *mem, size_t page)
{
	WRITE_MEM(word_of(mem, page), pattern_of(mem, page));
}

/* The device may not write any more, and its neighbours are left alone. */
TEST_F(protect_uffd, device_is_told)
{
	protect_part_by_uffd(self);
	expect_held(&self->dev, &self->mem, 0, FIRST);
	expect_held(&self->dev, &self->mem, FIRST + PART, PAGES - FIRST - PART);
	expect_uffd_wp(self, 0, FIRST, false);
	expect_uffd_wp(self, FIRST + PART, PAGES - FIRST - PART, false);
	expect_unprotected_as_before(self);
}

/* A read brings the page back, and its protection with it. */
TEST_F(protect_uffd, cpu_reads)
{
	protect_part_by_uffd(self);
	expect_readable(self, FIRST, PART);
	expect_uffd_wp(self, FIRST, PART, true);
	expect_nothing_handled(self);
	write_pattern(&self->mem, FIRST);
	expect_handled(self, FIRST);
	expect_uffd_wp(self, FIRST, 1, false);
	expect_uffd_wp(self, FIRST + 1, PART - 1, true);
	expect_unprotected_as_before(self);
}

TEST_F(protect_uffd, cpu_writes)
{
	protect_part_by_uffd(self);
	write_pattern(&self->mem, FIRST);
	expect_handled(self, FIRST);
	expect_uffd_wp(self, FIRST, 1, false);
	expect_entries(&self->mem, FIRST, 1, ENTRY_PRESENT);
	expect_entries(&self->mem, FIRST + 1, PART - 1, ENTRY_EXCLUSIVE);
	expect_uffd_wp(self, FIRST + 1, PART - 1, true);
	expect_unprotected_as_before(self);
}

/* The protection is lifted before anybody touched the page. */
TEST_F(protect_uffd, lifted)
{
	protect_part_by_uffd(self);
	ASSERT_EQ(0, write_protect(self->handler.uffd,
				   page_of(&self->mem, FIRST), PART, false));
	expect_uffd_wp(self, FIRST, PART, false);
	expect_entries(&self->mem, FIRST, PART, ENTRY_EXCLUSIVE);
	write_pattern(&self->mem, FIRST);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	expect_unprotected_as_before(self);
}

/* The device asks for a protected page: that is a write. */
TEST_F(protect_uffd, device_acquires)
{
	protect_part_by_uffd(self);
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, FIRST)));
	expect_handled(self, FIRST);
	expect_held(&self->dev, &self->mem, FIRST, 1);
	expect_uffd_wp(self, FIRST, 1, false);
	expect_uffd_wp(self, FIRST + 1, PART - 1, true);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_unprotected_as_before(self);
}

static void *acquire_first(void *arg)
{
	FIXTURE_DATA(protect_uffd) *self = arg;

	return (void *)(intptr_t)dev_acquire_one(&self->dev,
						 page_of(&self->mem, FIRST));
}

/*
 * The page is protected when the kernel has looked for it, and not yet made it
 * exclusive. Another context, which is told of that, stops it there.
 */
TEST_F(protect_uffd, meanwhile)
{
	char *page = page_of(&self->mem, FIRST);
	struct dev other;
	pthread_t thread;
	void *ret;
	int stop;

	READ_MEM(word_of(&self->mem, FIRST));
	dev_forget_events(&self->dev);
	setup_device(_metadata, &other, 0);
	ASSERT_EQ(0, dev_mirror(&other, page, page_size()));
	stop = dev_break(&other, DEVEXCL_POINT_INVALIDATE, page);
	ASSERT_LE(0, stop);
	ASSERT_EQ(0, pthread_create(&thread, NULL, acquire_first, self));
	ASSERT_EQ(0, wait_for_break(stop, STOP_SECONDS));
	ASSERT_EQ(0, write_protect(self->handler.uffd, page, 1, true));
	close(stop);
	ASSERT_EQ(0, pthread_join(thread, &ret));

	EXPECT_EQ(0, (intptr_t)ret);
	expect_handled(self, FIRST);
	expect_held(&self->dev, &self->mem, FIRST, 1);
	expect_uffd_wp(self, FIRST, 1, false);
	dev_close(&other);
	expect_unprotected_as_before(self);
}

/* So is an ordinary write of the device, but not a read. */
TEST_F(protect_uffd, device_copies)
{
	uint64_t *word = word_of(&self->mem, FIRST), value;

	protect_part_by_uffd(self);
	ASSERT_EQ(0, dev_read_word(&self->dev, word, &value));
	EXPECT_EQ(pattern_of(&self->mem, FIRST), value);
	expect_nothing_handled(self);
	expect_uffd_wp(self, FIRST, PART, true);
	ASSERT_EQ(0, dev_write_word(&self->dev, word, value));
	expect_handled(self, FIRST);
	expect_unprotected_as_before(self);
}

/* Another protection in between does not lose this one. */
TEST_F(protect_uffd, mprotect)
{
	protect_part_by_uffd(self);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_READ));
	expect_uffd_wp(self, FIRST, PART, true);
	ASSERT_EQ(0, protect_all(&self->mem, PROT_RW));
	expect_uffd_wp(self, FIRST, PART, true);
	expect_readable(self, 0, PAGES);
	expect_uffd_wp(self, FIRST, PART, true);
	write_pattern(&self->mem, FIRST);
	expect_handled(self, FIRST);
	expect_unprotected_as_before(self);
}

static int child_writes(const struct mem *mem)
{
	if (check_data(mem, 0, mem->pages))
		return 1;
	memset(mem->p, 0, mem->size);
	return check_uffd_wp(mem, 0, mem->pages, false) ? 2 : 0;
}

/* The child is not our handler's business; our own protection remains. */
TEST_F(protect_uffd, fork)
{
	pid_t pid;

	protect_part_by_uffd(self);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(child_writes(&self->mem));
	EXPECT_EQ(0, wait_child(pid));
	expect_readable(self, 0, PAGES);
	expect_uffd_wp(self, FIRST, PART, true);
	expect_nothing_handled(self);
	write_pattern(&self->mem, FIRST);
	expect_handled(self, FIRST);
	expect_unprotected_as_before(self);
}

/* Writes are permitted without a handler, and only noted. */
TEST_F(protect_uffd, async)
{
	struct mem mem = {};
	int uffd = open_uffd(UFFD_FEATURE_WP_ASYNC);

	if (uffd < 0)
		SKIP(return, "userfaultfd has no asynchronous mode");
	setup_mirrored(_metadata, &self->dev, &mem, PAGES);
	ASSERT_EQ(0, register_memory(uffd, &mem, UFFDIO_REGISTER_MODE_WP));
	acquire_pages(&self->dev, &mem, 0, PAGES);
	ASSERT_EQ(0, write_protect(uffd, mem.p, PAGES, true));
	expect_taken(&self->dev, &mem, 0, PAGES, CAUSE(PROTECTION_VMA));
	expect_claim(check_uffd_wp(&mem, 0, PAGES, true));

	/* Of four pages one is read, one written, one acquired. */
	expect_data(&mem, 0, 1);
	write_pattern(&mem, 1);
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&mem, 2)));
	expect_claim(check_uffd_wp(&mem, 0, 1, true));
	expect_claim(check_uffd_wp(&mem, 1, 2, false));
	expect_claim(check_uffd_wp(&mem, 3, 1, true));
	expect_held(&self->dev, &mem, 2, 1);
	write_pattern(&mem, 0);
	expect_claim(check_uffd_wp(&mem, 0, 1, false));

	expect_data(&mem, 0, PAGES);
	expect_references(&self->dev, &mem);
	mem_unmap(&mem);
	close(uffd);
}

/* Protection from any access: each goes to the handler, the first time. */
TEST_F(protect_uffd, read_write)
{
	struct handler handler = { .rwp = true };
	struct mem mem = {};

	handler.uffd = open_uffd(UFFD_FEATURE_RWP);
	if (handler.uffd < 0)
		SKIP(return, "userfaultfd does not protect from reading");
	setup_mirrored(_metadata, &self->dev, &mem, PAGES);
	ASSERT_EQ(0, start_handler(&handler, &mem));
	acquire_pages(&self->dev, &mem, 0, PAGES);
	ASSERT_EQ(0, rw_protect(handler.uffd, mem.p, PAGES, true));
	expect_taken(&self->dev, &mem, 0, PAGES, CAUSE(PROTECTION_VMA));
	expect_claim(check_uffd_wp(&mem, 0, PAGES, true));

	expect_data(&mem, 0, 1);
	expect_claim(check_handled(&handler, &mem, 0));
	write_pattern(&mem, 1);
	expect_claim(check_handled(&handler, &mem, 1));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&mem, 2)));
	expect_claim(check_handled(&handler, &mem, 2));
	expect_claim(check_uffd_wp(&mem, 0, 3, false));
	expect_claim(check_uffd_wp(&mem, 3, 1, true));

	ASSERT_EQ(0, rw_protect(handler.uffd, mem.p, PAGES, false));
	expect_data(&mem, 0, PAGES);
	expect_references(&self->dev, &mem);
	stop_handler(&handler);
	mem_unmap(&mem);
}

DEVEXCL_TEST_MAIN
