// SPDX-License-Identifier: GPL-2.0
/*
 * The rules for a driver, one test for each
 *
 * Other tests look at what mm does, and find a broken driver by the way. These
 * look at the driver, each at one rule that it may have got wrong, so that a
 * failure says which. How it looks when a rule is broken: DEVEXCL_BROKEN_*.
 */
#include <pthread.h>

#include "devexcl_test.h"

#define PAGES		4

FIXTURE(driver) {
	struct dev dev;
	struct dev other;
	struct mem mem;
};

FIXTURE_SETUP(driver)
{
	setup_device(_metadata, &self->dev, 0);
	setup_device(_metadata, &self->other, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	ASSERT_EQ(0, dev_mirror(&self->other, self->mem.p, self->mem.size));
}

FIXTURE_TEARDOWN(driver)
{
	dev_close(&self->other);
	dev_close(&self->dev);
	mem_unmap(&self->mem);
}

/**
 * struct writer - a thread in which the device writes to the first page
 * @dev: the device
 * @word: where
 * @value: what
 * @copies: it copies; else it acquires the page and exchanges the value
 * @flags: of that operation
 * @thread: the thread
 * @stop: the breakpoint that it has come to
 * @done: it has come to its end
 * @ret: 0 or -errno
 */
struct writer {
	struct dev *dev;
	uint64_t *word;
	uint64_t value;
	bool copies;
	unsigned int flags;
	pthread_t thread;
	int stop;
	bool done;
	int ret;
};

static int device_writes(struct writer *writer)
{
	struct devexcl_atomic_op op = {
		.addr = (uintptr_t)writer->word,
		.operand = writer->value,
		.op = DEVEXCL_OP_XCHG,
		.width = sizeof(*writer->word),
	};
	unsigned int tries = 10;
	long ret;

	if (writer->copies)
		return dev_write_word(writer->dev, writer->word, writer->value);
	do {
		ret = dev_acquire_one(writer->dev, writer->word);
		if (!ret)
			ret = dev_atomic(writer->dev, &op, 1, writer->flags, 0);
	} while (ret == -EACCES && --tries);	/* it was lost meanwhile */
	return ret < 0 ? ret : 0;
}

static void *run_writer(void *arg)
{
	struct writer *writer = arg;

	writer->ret = device_writes(writer);
	__atomic_store_n(&writer->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Have the device write, and stop at a point on the way. */
static int start_writer(struct writer *writer, unsigned int point)
{
	unsigned int seconds;
	int ret;

	writer->stop = dev_break(writer->dev, point, writer->word);
	if (writer->stop < 0)
		return writer->stop;
	ret = -pthread_create(&writer->thread, NULL, run_writer, writer);
	for (seconds = 0; !ret && seconds < STOP_SECONDS; seconds++) {
		ret = wait_for_break(writer->stop, 1);
		/* A broken driver may never get there. */
		if (ret != -ETIME ||
		    __atomic_load_n(&writer->done, __ATOMIC_SEQ_CST))
			return ret;
		ret = 0;
	}
	return ret ?: -ETIME;
}

static int finish_writer(struct writer *writer)
{
	close(writer->stop);
	pthread_join(writer->thread, NULL);
	return writer->ret;
}

/*
 * The sequence is looked at before a mapping is installed: a page that was
 * replaced meanwhile is not what the device gets.
 */
TEST_F(driver, looks_at_the_sequence)
{
	struct writer writer = {
		.dev = &self->dev,
		.word = word_of(&self->mem, 0),
		.value = 1,
	};

	ASSERT_EQ(0, start_writer(&writer, DEVEXCL_POINT_CHECK));
	ASSERT_EQ(0, madvise(self->mem.p, page_size(), MADV_DONTNEED));
	ASSERT_EQ(0, finish_writer(&writer));
	EXPECT_EQ(1, READ_MEM(writer.word));
	expect_references(&self->dev, &self->mem);
}

/*
 * The sequence is sampled after the page was faulted in: doing that takes the
 * page from whoever had it, which moves the sequence each time.
 */
TEST_F(driver, samples_after_fault_in)
{
	struct devexcl_stats before, after;

	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	acquire_pages(&self->other, &self->mem, 0, 1);
	ASSERT_EQ(0, dev_acquire_one(&self->dev, self->mem.p));
	ASSERT_EQ(1, dev_release(&self->dev, self->mem.p, 1));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, self->mem.p));
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(before.retries, after.retries);
}

/* The event that the device causes itself does not count. */
TEST_F(driver, ignores_own_events)
{
	struct devexcl_stats before, after;

	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(before.retries, after.retries);
	EXPECT_EQ(before.own + PAGES, after.own);
}

/*
 * The same event of another device does: it is the only one that says that an
 * ordinary mapping has to go.
 */
TEST_F(driver, heeds_events_of_others)
{
	struct devexcl_page info;
	uint64_t word;

	ASSERT_EQ(0, dev_read_word(&self->dev, word_of(&self->mem, 0), &word));
	ASSERT_EQ(0, dev_query(&self->dev, self->mem.p, 1, &info));
	ASSERT_EQ(DEVEXCL_ACCESS_READ, info.access);
	ASSERT_EQ(0, dev_acquire_one(&self->other, self->mem.p));
	ASSERT_EQ(0, dev_query(&self->dev, self->mem.p, 1, &info));
	EXPECT_EQ(0, info.access);
}

/* When a CPU touches the page, the device has lost it. */
TEST_F(driver, lets_go_when_touched)
{
	acquire_pages(&self->dev, &self->mem, 0, 2);
	WRITE_MEM(word_of(&self->mem, 0), 1);
	expect_taken(&self->dev, &self->mem, 0, 1, cause_of_fault(&self->dev));
	expect_not_held(&self->dev, &self->mem, 0, 1);
	expect_held(&self->dev, &self->mem, 1, 1);
	EXPECT_EQ(-EACCES, dev_add(&self->dev, word_of(&self->mem, 0), 1,
				   NULL));
}

/* All pages of a range that is invalidated, the last one too. */
TEST_F(driver, lets_go_of_all)
{
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	ASSERT_EQ(0, madvise(self->mem.p, 3 * page_size(), MADV_DONTNEED));
	expect_not_held(&self->dev, &self->mem, 0, 3);
	expect_held(&self->dev, &self->mem, 3, 1);
}

/* What was released is not used any more, nor kept. */
TEST_F(driver, releases)
{
	acquire_pages(&self->dev, &self->mem, 0, 2);
	ASSERT_EQ(1, dev_release(&self->dev, self->mem.p, 1));
	expect_not_held(&self->dev, &self->mem, 0, 1);
	EXPECT_EQ(-EACCES, dev_add(&self->dev, word_of(&self->mem, 0), 1,
				   NULL));
	ASSERT_EQ(0, dev_unmirror(&self->dev, self->mem.p, self->mem.size));
	EXPECT_EQ(-ENXIO, dev_add(&self->dev, word_of(&self->mem, 1), 1,
				  NULL));
}

/* Success means that the device has the page. */
TEST_F(driver, tells_the_truth)
{
	ASSERT_EQ(0, mprotect(self->mem.p, page_size(), PROT_READ));
	EXPECT_EQ(-EFAULT, dev_acquire(&self->dev, self->mem.p, 1));
	expect_not_held(&self->dev, &self->mem, 0, 1);
}

/**
 * struct toucher - a thread that wants the page
 * @word: in it
 * @thread: the thread
 * @progress: whether it has got it
 */
struct toucher {
	uint64_t *word;
	pthread_t thread;
	struct progress progress;
};

static void *cpu_adds(void *arg)
{
	struct toucher *toucher = arg;

	progress_begin(&toucher->progress);
	__atomic_fetch_add(toucher->word, 0x100, __ATOMIC_SEQ_CST);
	progress_end(&toucher->progress);
	return NULL;
}

/* Somebody wants the page while the device is at it: he has to wait for it. */
static void expect_alone(struct __test_metadata *_metadata,
			 struct writer *writer, enum devexcl_point point,
			 void *(*touch)(void *))
{
	struct toucher toucher = { .word = writer->word };

	ASSERT_EQ(0, start_writer(writer, point));
	ASSERT_EQ(0, pthread_create(&toucher.thread, NULL, touch, &toucher));
	EXPECT_FALSE(progress_wait(&toucher.progress));
	ASSERT_EQ(0, finish_writer(writer));
	pthread_join(toucher.thread, NULL);
	progress_close(&toucher.progress);
}

/* Nobody gets the page between load and store of an operation. */
TEST_F(driver, is_alone_in_operations)
{
	struct writer writer = {
		.dev = &self->dev,
		.word = word_of(&self->mem, 0),
		.flags = DEVEXCL_ATOMIC_GAP,
	};

	expect_alone(_metadata, &writer, DEVEXCL_POINT_STORE, cpu_adds);
	EXPECT_EQ(0x100, READ_MEM(writer.word));
}

static void *throw_away(void *arg)
{
	struct toucher *toucher = arg;

	progress_begin(&toucher->progress);
	madvise(toucher->word, page_size(), MADV_DONTNEED);
	progress_end(&toucher->progress);
	return NULL;
}

/* Nor between the look at the sequence and the mapping. */
TEST_F(driver, is_alone_when_it_maps)
{
	struct writer writer = {
		.dev = &self->dev,
		.word = word_of(&self->mem, 0),
	};

	expect_alone(_metadata, &writer, DEVEXCL_POINT_INSTALL, throw_away);
	expect_references(&self->dev, &self->mem);
}

/*
 * What the device has written to is dirty. mm sees to that itself when it makes
 * a page writable for the device, so it shows only if the page was made clean
 * after that: here by MADV_FREE, after which reclaim drops a clean page with
 * whatever is in it. The device writes later, and what is written after
 * MADV_FREE stays.
 */
TEST_F(driver, makes_dirty)
{
	struct writer writer = {
		.dev = &self->dev,
		.word = word_of(&self->mem, 0),
		.value = 0x1234,
		.copies = true,
	};

	ASSERT_EQ(0, start_writer(&writer, DEVEXCL_POINT_FAULTED));
	ASSERT_EQ(0, madvise(self->mem.p, page_size(), MADV_FREE));
	ASSERT_EQ(0, finish_writer(&writer));
	drain_lru_batches();
	ASSERT_EQ(0, madvise(self->mem.p, page_size(), MADV_PAGEOUT));
	EXPECT_EQ(0x1234, READ_MEM(writer.word));
}

DEVEXCL_TEST_MAIN
