// SPDX-License-Identifier: GPL-2.0
/*
 * Engines: jobs do what a model of them does, in order within an engine and at
 * the same time on several, and end when they are done, cancelled, or when
 * there is nothing left to work on; and nothing goes on afterwards
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/userfaultfd.h>

#include "devexcl_test.h"

#define PAGES		8

#define SECOND		1000000000ULL
/* Longer than anything takes; who waits longer has lost something. */
#define PATIENCE	(60 * SECOND)
/* A job that does not end by itself. */
#define ENDLESS		(1ULL << 60)

#define ACQUIRE		DEVEXCL_SUBMIT_ACQUIRE
#define GAP		DEVEXCL_SUBMIT_GAP

FIXTURE(engine) {
	struct dev dev;
	struct mem mem;
	char *model;		/* what the memory should hold */
	unsigned int engines;
};

FIXTURE_SETUP(engine)
{
	setup_device(_metadata, &self->dev, 0);
	setup_mirrored(_metadata, &self->dev, &self->mem, PAGES);
	self->engines = self->dev.info.nengines;
	self->model = malloc(self->mem.size);
	ASSERT_NE(NULL, self->model);
	memcpy(self->model, self->mem.p, self->mem.size);
}

FIXTURE_TEARDOWN(engine)
{
	free(self->model);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

static char wrong[256];

#define say_wrong(...)							\
	(snprintf(wrong, sizeof(wrong), __VA_ARGS__), (const char *)wrong)

/* Jobs */

/* A job of 64-bit operations on the word at @p. */
static struct devexcl_submit word_job(const void *p, enum devexcl_op op,
				      uint64_t operand, uint64_t count)
{
	return (struct devexcl_submit) {
		.flags = ACQUIRE,
		.addr = (uintptr_t)p,
		.count = count,
		.op = op,
		.operand = operand,
		.pattern = DEVEXCL_PATTERN_WORD,
		.engine = DEVEXCL_ENGINE_ANY,
	};
}

/* Run a job to its end. */
static int run_job(struct dev *dev, const struct devexcl_submit *job,
		   struct devexcl_wait *result)
{
	long id = dev_submit(dev, job);

	return id < 0 ? (int)id : dev_wait(dev, id, PATIENCE, result);
}

/* The model */

static uint64_t low(uint64_t value, unsigned int width)
{
	return width == 8 ? value : value & ((1ULL << (8 * width)) - 1);
}

static int64_t as_signed(uint64_t value, unsigned int width)
{
	uint64_t sign = 1ULL << (8 * width - 1);

	return (int64_t)((value ^ sign) - sign);
}

static uint64_t model_result(const struct devexcl_submit *job, uint64_t old)
{
	uint64_t operand = low(job->operand, job->width);
	bool less = as_signed(old, job->width) <
		    as_signed(operand, job->width);

	switch (job->op) {
	case DEVEXCL_OP_ADD:
		return low(old + operand, job->width);
	case DEVEXCL_OP_SUB:
		return low(old - operand, job->width);
	case DEVEXCL_OP_AND:
		return old & operand;
	case DEVEXCL_OP_OR:
		return old | operand;
	case DEVEXCL_OP_XOR:
		return old ^ operand;
	case DEVEXCL_OP_XCHG:
		return operand;
	case DEVEXCL_OP_CMPXCHG:
		return old == low(job->compare, job->width) ? operand : old;
	case DEVEXCL_OP_UMIN:
		return MIN(old, operand);
	case DEVEXCL_OP_UMAX:
		return MAX(old, operand);
	case DEVEXCL_OP_SMIN:
		return less ? old : operand;
	case DEVEXCL_OP_SMAX:
		return less ? operand : old;
	case DEVEXCL_OP_INC_WRAP:
		return old >= operand ? 0 : old + 1;
	default:
		return !old || old > operand ? operand : old - 1;
	}
}

/* Do one operation of the job in the model, and count it. */
static void model_op(FIXTURE_DATA(engine) *self,
		     const struct devexcl_submit *job, uint64_t addr,
		     struct devexcl_wait *want)
{
	void *p = self->model + (addr - (uintptr_t)self->mem.p);
	uint64_t old = 0, new;

	/* Little endian, as everything that has this device. */
	memcpy(&old, p, job->width);
	new = model_result(job, old);
	memcpy(p, &new, job->width);
	want->done++;
	want->sum += old;
	want->last = old;
	want->matched += old == low(job->compare, job->width);
}

static uint64_t model_link(FIXTURE_DATA(engine) *self, uint64_t node)
{
	uint64_t link;

	memcpy(&link, self->model + (node - (uintptr_t)self->mem.p),
	       sizeof(link));
	return link;
}

/* One pass of a job. */
static void model_pass(FIXTURE_DATA(engine) *self,
		       const struct devexcl_submit *job,
		       struct devexcl_wait *want)
{
	uint64_t words = job->length / job->width, random = job->seed;
	uint64_t node = job->addr, next, i;

	for (i = 0; i < job->count && node; i++) {
		uint64_t addr = job->addr;

		switch (job->pattern) {
		case DEVEXCL_PATTERN_STRIDE:
			addr += i * job->stride % job->length;
			break;
		case DEVEXCL_PATTERN_RANDOM:
			addr += (uint64_t)((__uint128_t)words *
					   random_next(&random) >> 64) *
				job->width;
			break;
		case DEVEXCL_PATTERN_CHASE:
			next = model_link(self, node);
			addr = node + job->stride;
			node = next;
			break;
		}
		model_op(self, job, addr, want);
	}
	want->passes++;
}

static const char *check_memory(FIXTURE_DATA(engine) *self)
{
	size_t i;

	for (i = 0; i < self->mem.size; i++) {
		unsigned char is = READ_MEM(self->mem.p + i);
		unsigned char want = self->model[i];

		if (is != want)
			return say_wrong("page %zu byte %zu is %#x, expected %#x",
					 i / page_size(), i % page_size(), is,
					 want);
	}
	return NULL;
}

static const char *check_result(const struct devexcl_wait *is,
				const struct devexcl_wait *want)
{
	if (is->state != DEVEXCL_JOB_ENDED || is->status)
		return say_wrong("job is in state %u, its status %d",
				 is->state, is->status);
	if (is->done != want->done || is->passes != want->passes)
		return say_wrong("%llu operations and %llu passes, expected %llu and %llu",
				 (unsigned long long)is->done,
				 (unsigned long long)is->passes,
				 (unsigned long long)want->done,
				 (unsigned long long)want->passes);
	if (is->sum != want->sum || is->last != want->last)
		return say_wrong("found the sum %#llx and last %#llx, expected %#llx and %#llx",
				 (unsigned long long)is->sum,
				 (unsigned long long)is->last,
				 (unsigned long long)want->sum,
				 (unsigned long long)want->last);
	if (is->matched != want->matched)
		return say_wrong("%llu matched, expected %llu",
				 (unsigned long long)is->matched,
				 (unsigned long long)want->matched);
	return NULL;
}

/* Run a job, and the model, and compare everything. */
static const char *check_job(FIXTURE_DATA(engine) *self,
			     const struct devexcl_submit *job)
{
	struct devexcl_wait want = {}, is;
	const char *ret;
	uint64_t i;
	int err;

	for (i = 0; i < job->repeat; i++)
		model_pass(self, job, &want);
	err = run_job(&self->dev, job, &is);
	if (err)
		return say_wrong("cannot run a job: %s", strerror(-err));
	ret = check_result(&is, &want);
	return ret ?: check_memory(self);
}

#define expect_job(self, job)	expect_claim(check_job(self, job))

/* Patterns */

/* All of the memory. */
static struct devexcl_submit pattern_job(FIXTURE_DATA(engine) *self,
					 enum devexcl_pattern pattern,
					 enum devexcl_op op, unsigned int width,
					 uint64_t operand)
{
	return (struct devexcl_submit) {
		.flags = ACQUIRE,
		.addr = (uintptr_t)self->mem.p,
		.length = self->mem.size,
		.count = 1000,
		.repeat = 2,
		.op = op,
		.width = width,
		.operand = operand,
		.pattern = pattern,
		.engine = DEVEXCL_ENGINE_ANY,
	};
}

TEST_F(engine, word)
{
	struct devexcl_submit job;

	job = pattern_job(self, DEVEXCL_PATTERN_WORD, DEVEXCL_OP_ADD, 8, 3);
	job.addr += 3 * page_size() - 8;
	job.length = 8;
	expect_job(self, &job);
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, stride)
{
	const uint64_t strides[] = { 4, 64, 4096, 4096 + 4, 3 * 4096 + 12,
				     PAGES * 4096 - 4 };
	struct devexcl_submit job;
	size_t i;

	job = pattern_job(self, DEVEXCL_PATTERN_STRIDE, DEVEXCL_OP_SUB, 4, 5);
	for (i = 0; i < ARRAY_SIZE(strides); i++) {
		job.stride = strides[i];
		expect_job(self, &job);
	}
	/* It comes round within a range that is not all of a page. */
	job.addr += page_size() - 12;
	job.length = 20;
	job.stride = 8;
	expect_job(self, &job);
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, random)
{
	struct devexcl_submit job;
	uint64_t seed;

	job = pattern_job(self, DEVEXCL_PATTERN_RANDOM, DEVEXCL_OP_INC_WRAP, 2,
			  12345);
	for (seed = 0; seed < 3; seed++) {
		job.seed = seed << 62;
		expect_job(self, &job);
	}
	/* Every word of a range is hit, and none beside it. */
	job.addr += page_size() - 8;
	job.length = 14;
	expect_job(self, &job);
	expect_references(&self->dev, &self->mem);
}

#define NODES		100
#define NODE_SIZE	64

/* Nodes all over the memory in no order; the first one is the first node. */
static void make_list(FIXTURE_DATA(engine) *self, unsigned int nodes)
{
	unsigned int slots = self->mem.size / NODE_SIZE, slot = 0, i;

	for (i = 0; i < nodes; i++) {
		/* An odd multiplier: each slot once. */
		unsigned int next = slots / 2 + (i + 1) * 37;
		uint64_t *node = (uint64_t *)(self->mem.p + slot * NODE_SIZE);

		slot = next % slots;
		*node = i + 1 < nodes ?
			(uintptr_t)self->mem.p + slot * NODE_SIZE : 0;
	}
	memcpy(self->model, self->mem.p, self->mem.size);
}

TEST_F(engine, chase)
{
	const uint64_t counts[] = { NODES + 1, NODES, NODES - 1, 1 };
	struct devexcl_submit job;
	struct devexcl_stats before, after;
	size_t i;

	make_list(self, NODES);
	job = pattern_job(self, DEVEXCL_PATTERN_CHASE, DEVEXCL_OP_ADD, 8, 7);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		job.count = counts[i];
		job.stride = 8 + 8 * i;
		ASSERT_EQ(0, dev_stats(&self->dev, &before));
		expect_job(self, &job);
		ASSERT_EQ(0, dev_stats(&self->dev, &after));
		/* Links do not count. */
		EXPECT_EQ(2 * MIN(counts[i], NODES), after.ops - before.ops);
	}
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, chase_list_changes)
{
	struct devexcl_submit job;

	/* The operation is on the link itself, which was read before. */
	make_list(self, NODES);
	job = pattern_job(self, DEVEXCL_PATTERN_CHASE, DEVEXCL_OP_XCHG, 8, 0);
	job.stride = 0;
	expect_job(self, &job);
	EXPECT_EQ(0, *(uint64_t *)self->mem.p);
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, chase_circle)
{
	uint64_t *node = (uint64_t *)self->mem.p;
	struct devexcl_submit job;

	node[0] = (uintptr_t)&node[1024];
	node[1024] = (uintptr_t)&node[0];
	memcpy(self->model, self->mem.p, self->mem.size);
	job = pattern_job(self, DEVEXCL_PATTERN_CHASE, DEVEXCL_OP_DEC_WRAP, 4,
			  ~0U);
	job.stride = 12;
	expect_job(self, &job);
	expect_references(&self->dev, &self->mem);
}

/* Links that lead astray end the job where they are met. */
TEST_F(engine, chase_bad_link)
{
	uint64_t p = (uintptr_t)self->mem.p, end = p + self->mem.size;
	const struct {
		uint64_t link;
		int error;
	} links[] = {
		{ p + 4, -EINVAL },
		{ 1, -EINVAL },
		{ p - 8, -ENXIO },
		{ end, -ENXIO },
		{ end - 8, -ENXIO },	/* the node begins inside */
		{ 8, -ENXIO },
		{ -8ULL, -ENXIO },
		{ ~7ULL << 3, -ENXIO },
	};
	struct devexcl_submit job;
	struct devexcl_wait is;
	size_t i;

	job = pattern_job(self, DEVEXCL_PATTERN_CHASE, DEVEXCL_OP_ADD, 8, 1);
	job.stride = 8;
	for (i = 0; i < ARRAY_SIZE(links); i++) {
		WRITE_MEM(word_of(&self->mem, 0), links[i].link);
		ASSERT_EQ(0, run_job(&self->dev, &job, &is));
		EXPECT_EQ(links[i].error, is.status)
			TH_LOG("link %zu", i);
		EXPECT_EQ(1, is.done);
		EXPECT_EQ(0, is.passes);
	}
}

/* Operations */

/* All operations of a width, at random places, and what they find. */
static void run_operations(struct __test_metadata *_metadata,
			   FIXTURE_DATA(engine) *self, unsigned int width,
			   unsigned int flags)
{
	struct devexcl_submit job;
	unsigned int op;

	for (op = 0; op < DEVEXCL_OP_NR; op++) {
		job = pattern_job(self, DEVEXCL_PATTERN_RANDOM, op, width,
				  0x0102030480706050ULL * (op + 1));
		job.flags |= flags;
		job.length = 2 * page_size();
		job.count = 300;
		job.seed = op;
		/* Some word has this value. */
		memcpy(&job.compare, self->model + page_size(), 8);
		expect_job(self, &job);
	}
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, operations_8)
{
	run_operations(_metadata, self, 1, 0);
}

TEST_F(engine, operations_16)
{
	run_operations(_metadata, self, 2, 0);
}

TEST_F(engine, operations_32)
{
	run_operations(_metadata, self, 4, 0);
}

TEST_F(engine, operations_64)
{
	run_operations(_metadata, self, 8, 0);
}

TEST_F(engine, operations_with_gap)
{
	run_operations(_metadata, self, 4, GAP);
}

/* What is compared is what fits into the word. */
TEST_F(engine, matched)
{
	struct devexcl_submit job;
	struct devexcl_wait is;

	WRITE_MEM(word_of(&self->mem, 0), 5);
	job = word_job(self->mem.p, DEVEXCL_OP_CMPXCHG, 5, 700);
	job.width = 2;
	job.length = 2;
	job.compare = 0xff0005;
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_EQ(700, is.matched);
	EXPECT_EQ(700 * 5, is.sum);

	/* Counting up, each value is met once. */
	job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 700);
	job.compare = 5 + 600;
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_EQ(1, is.matched);
	EXPECT_EQ(5 + 699, is.last);
	EXPECT_EQ(5 + 700, READ_MEM(word_of(&self->mem, 0)));
}

/* Pages */

static struct devexcl_submit page_by_page(FIXTURE_DATA(engine) *self)
{
	struct devexcl_submit job;

	job = pattern_job(self, DEVEXCL_PATTERN_STRIDE, DEVEXCL_OP_ADD, 8, 1);
	job.stride = page_size();
	job.count = 3 * PAGES;
	job.repeat = 1;
	return job;
}

/* Pages are acquired once, and stay the device's. */
TEST_F(engine, acquires_pages)
{
	struct devexcl_submit job = page_by_page(self);
	struct devexcl_wait is;

	acquire_pages(&self->dev, &self->mem, 0, 3);
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_EQ(0, is.status);
	EXPECT_EQ(3 * PAGES, is.done);
	EXPECT_EQ(PAGES - 3, is.acquired);
	expect_nothing_taken(&self->dev, &self->mem);
	expect_held(&self->dev, &self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* Without being told so, it does not. */
TEST_F(engine, does_not_acquire)
{
	struct devexcl_submit job = page_by_page(self);
	struct devexcl_stats before, after;
	struct devexcl_wait is;

	job.flags = 0;
	acquire_pages(&self->dev, &self->mem, 0, 3);
	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(-EACCES, is.status);
	EXPECT_EQ(3, is.done);
	EXPECT_EQ(0, is.acquired);
	EXPECT_EQ(3, after.ops - before.ops);
	EXPECT_EQ(1, after.errors[DEVEXCL_ERROR_EACCES] -
		     before.errors[DEVEXCL_ERROR_EACCES]);
	EXPECT_EQ(1, after.jobs_completed - before.jobs_completed);
	expect_held(&self->dev, &self->mem, 0, 3);
	expect_not_held(&self->dev, &self->mem, 3, PAGES - 3);
}

TEST_F(engine, page_missing)
{
	struct devexcl_submit job = page_by_page(self);
	struct devexcl_wait is;

	ASSERT_EQ(0, munmap(page_of(&self->mem, 5), page_size()));
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_EQ(-EFAULT, is.status);
	EXPECT_EQ(5, is.done);
	expect_held(&self->dev, &self->mem, 0, 5);
}

/* The sequence seems to move time and again. */
TEST_F(engine, retries)
{
	struct devexcl_submit job = page_by_page(self);
	struct devexcl_wait is;

	ASSERT_EQ(0, dev_inject(&self->dev, 0, 50));
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_EQ(0, is.status);
	EXPECT_EQ(3 * PAGES, is.done);
	expect_held(&self->dev, &self->mem, 0, PAGES);
}

/* Queues */

/* Progress of a job; a state of -errno if there is none. */
static struct devexcl_wait look_at(struct dev *dev, long id)
{
	struct devexcl_wait is;
	int ret = dev_wait(dev, id, 0, &is);

	if (ret && ret != -ETIME)
		is.state = ret;
	return is;
}

/* Wait until a job has done @nr operations. */
static void wait_done(struct dev *dev, long id, uint64_t nr)
{
	struct devexcl_wait is;

	do {
		sched_yield();
		is = look_at(dev, id);
	} while (is.state == DEVEXCL_JOB_QUEUED ||
		 (is.state == DEVEXCL_JOB_RUNNING && is.done < nr));
}

#define expect_end(dev, id, error, is)					\
do {									\
	ASSERT_EQ(0, dev_wait(dev, id, PATIENCE, is));			\
	ASSERT_EQ(DEVEXCL_JOB_ENDED, (is)->state);			\
	ASSERT_EQ(error, (is)->status);					\
} while (0)

/*
 * Keep engine 0 busy with a job of one operation on the first page, which has
 * stopped there, until the file that is returned is closed.
 */
static int stop_engine(struct dev *dev, const struct mem *mem,
		       enum devexcl_point point, long *id)
{
	struct devexcl_submit job = word_job(mem->p, DEVEXCL_OP_ADD, 1, 1);
	int fd = dev_break(dev, point, mem->p);

	if (fd < 0)
		return fd;
	job.flags |= GAP;
	job.engine = 0;
	*id = dev_submit(dev, &job);
	if (*id < 0 || wait_for_break(fd, 60)) {
		close(fd);
		return -EIO;
	}
	return fd;
}

/* Job i changes i to i + 1, so all find their number if they run in order. */
TEST_F(engine, in_order)
{
	uint64_t *word = word_of(&self->mem, 1);
	size_t nr = self->dev.info.max_jobs - 1, i;
	struct devexcl_event events[64];
	struct devexcl_wait is;
	long first, id[64];
	int stop;

	ASSERT_LE(nr, ARRAY_SIZE(id));
	WRITE_MEM(word, 0);
	stop = stop_engine(&self->dev, &self->mem, DEVEXCL_POINT_STORE, &first);
	ASSERT_LE(0, stop);
	for (i = 0; i < nr; i++) {
		struct devexcl_submit job;

		job = word_job(word, DEVEXCL_OP_CMPXCHG, i + 1, 1);
		job.compare = i;
		job.engine = 0;
		id[i] = dev_submit(&self->dev, &job);
		ASSERT_LT(first, id[i]);
	}
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, look_at(&self->dev, first).state);
	for (i = 0; i < nr; i++)
		EXPECT_EQ(DEVEXCL_JOB_QUEUED, look_at(&self->dev, id[i]).state);
	dev_forget_events(&self->dev);
	close(stop);

	expect_end(&self->dev, first, 0, &is);
	for (i = 0; i < nr; i++) {
		expect_end(&self->dev, id[i], 0, &is);
		EXPECT_EQ(1, is.matched);
		EXPECT_EQ(0, is.engine);
	}
	EXPECT_EQ(nr, READ_MEM(word));

	/* The stream says in which order they have ended. */
	nr = dev_read_events(&self->dev, events, ARRAY_SIZE(events));
	for (i = 0; i < nr; i++) {
		if (events[i].type != DEVEXCL_EVENT_JOB)
			continue;
		EXPECT_EQ(first, events[i].job);
		first++;
	}
	EXPECT_EQ(id[0] + (long)self->dev.info.max_jobs - 1, first);
}

/* Another engine does not wait for one that has stopped. */
TEST_F(engine, side_by_side)
{
	struct devexcl_submit job;
	struct devexcl_wait is;
	unsigned int n;
	long first;
	int stop;

	if (self->engines < 2)
		SKIP(return, "the device has one engine only");
	stop = stop_engine(&self->dev, &self->mem, DEVEXCL_POINT_SAMPLED,
			   &first);
	ASSERT_LE(0, stop);
	for (n = 1; n < self->engines; n++) {
		job = word_job(page_of(&self->mem, n % PAGES), DEVEXCL_OP_ADD,
			       1, 1000);
		job.engine = n;
		ASSERT_EQ(0, run_job(&self->dev, &job, &is));
		EXPECT_EQ(0, is.status);
		EXPECT_EQ(n, is.engine);
	}
	/* Any engine is one that has nothing to do. */
	job.engine = DEVEXCL_ENGINE_ANY;
	ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_NE(0, is.engine);
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, look_at(&self->dev, first).state);
	close(stop);
	expect_end(&self->dev, first, 0, &is);
}

/* Engines are the device's: contexts share them, but not their jobs. */
TEST_F(engine, contexts_share_engines)
{
	struct devexcl_submit job;
	struct devexcl_wait is;
	struct dev other;
	long first, id;
	int stop;

	ASSERT_EQ(0, dev_open(&other, 0));
	ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
	stop = stop_engine(&self->dev, &self->mem, DEVEXCL_POINT_SAMPLED,
			   &first);
	ASSERT_LE(0, stop);
	job = word_job(page_of(&self->mem, 1), DEVEXCL_OP_ADD, 1, 1);
	job.engine = 0;
	id = dev_submit(&other, &job);
	ASSERT_LT(0, id);
	EXPECT_EQ(first, id);	/* each context counts its own */
	EXPECT_EQ(DEVEXCL_JOB_QUEUED, look_at(&other, id).state);
	close(stop);
	expect_end(&other, id, 0, &is);
	expect_end(&self->dev, first, 0, &is);
	EXPECT_EQ(-ENOENT, dev_wait(&other, id, 0, &is));
	EXPECT_EQ(-ENOENT, dev_cancel(&other, id));
	dev_close(&other);
}

/* There is no end of jobs, but of those that nobody has waited for. */
TEST_F(engine, as_many_jobs_as_told)
{
	struct devexcl_submit job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	size_t max = self->dev.info.max_jobs, i;
	struct devexcl_stats stats;
	struct devexcl_wait is;
	long id = 0;

	for (i = 0; i < max; i++) {
		id = dev_submit(&self->dev, &job);
		ASSERT_LT(0, id);
	}
	EXPECT_EQ(-ENOSPC, dev_submit(&self->dev, &job));
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(max, stats.jobs);
	EXPECT_EQ(max, stats.jobs_submitted);

	/* That all have ended makes no room. */
	for (i = 0; i < max; i++) {
		if (i == max / 2)
			EXPECT_EQ(-ENOSPC, dev_submit(&self->dev, &job));
		wait_done(&self->dev, id + 1, 0);
	}
	for (i = 0; i < 2 * max; i++) {
		expect_end(&self->dev, id - max + 1 + i, 0, &is);
		ASSERT_EQ(id + 1 + (long)i, dev_submit(&self->dev, &job));
	}
	ASSERT_EQ(0, dev_stats(&self->dev, &stats));
	EXPECT_EQ(max, stats.jobs);
	EXPECT_EQ(3 * max, stats.jobs_submitted);
	EXPECT_EQ(-ENOSPC, dev_submit(&self->dev, &job));
}

/* Waiting */

static struct devexcl_submit endless_job(const struct mem *mem, size_t page)
{
	return word_job(page_of(mem, page), DEVEXCL_OP_ADD, 1, ENDLESS);
}

/* End a job that would not, and see that the memory has what it has done. */
#define expect_cancelled(self, id, page)				\
do {									\
	struct devexcl_wait _is;					\
									\
	ASSERT_EQ(0, dev_cancel(&(self)->dev, id));			\
	expect_end(&(self)->dev, id, -ECANCELED, &_is);			\
	EXPECT_EQ(pattern_of(&(self)->mem, page) + _is.done,		\
		  READ_MEM(word_of(&(self)->mem, page)));		\
} while (0)

TEST_F(engine, wait_timeout)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	struct devexcl_wait is, then;
	long id = dev_submit(&self->dev, &job);

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	EXPECT_EQ(-ETIME, dev_wait(&self->dev, id, 0, &is));
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, is.state);
	EXPECT_EQ(0, is.status);
	EXPECT_LT(0, is.done);
	EXPECT_LT(0, is.run_ns);

	wait_done(&self->dev, id, is.done + 1);
	EXPECT_EQ(-ETIME, dev_wait(&self->dev, id, 1000, &then));
	EXPECT_LT(is.done, then.done);
	EXPECT_LE(is.run_ns, then.run_ns);
	/* All numbers are of one moment: the values found are consecutive. */
	EXPECT_EQ(then.last + 1, pattern_of(&self->mem, 0) + then.done);
	expect_cancelled(self, id, 0);
}

TEST_F(engine, wait_unknown)
{
	struct devexcl_submit job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	struct devexcl_wait is;
	long id = dev_submit(&self->dev, &job);

	ASSERT_LT(0, id);
	EXPECT_EQ(-ENOENT, dev_wait(&self->dev, 0, PATIENCE, &is));
	EXPECT_EQ(-ENOENT, dev_wait(&self->dev, id + 1, PATIENCE, &is));
	EXPECT_EQ(-ENOENT, dev_wait(&self->dev, UINT32_MAX, PATIENCE, &is));
	EXPECT_EQ(-ENOENT, dev_cancel(&self->dev, 0));
	EXPECT_EQ(-ENOENT, dev_cancel(&self->dev, id + 1));

	expect_end(&self->dev, id, 0, &is);
	EXPECT_EQ(-ENOENT, dev_wait(&self->dev, id, PATIENCE, &is));
	EXPECT_EQ(-ENOENT, dev_cancel(&self->dev, id));
}

/**
 * struct waiter - a thread that waits for a job
 * @dev: whose
 * @id: the job
 * @is: the result
 * @ret: what WAIT returned
 * @thread: itself
 * @progress: how far it is
 */
struct waiter {
	struct dev *dev;
	long id;
	struct devexcl_wait is;
	int ret;
	pthread_t thread;
	struct progress progress;
};

static void *run_waiter(void *arg)
{
	struct waiter *waiter = arg;

	progress_begin(&waiter->progress);
	waiter->ret = dev_wait(waiter->dev, waiter->id, PATIENCE, &waiter->is);
	progress_end(&waiter->progress);
	return NULL;
}

static int start_waiter(struct waiter *waiter, struct dev *dev, long id)
{
	int ret;

	waiter->dev = dev;
	waiter->id = id;
	waiter->progress = (struct progress){};
	ret = -pthread_create(&waiter->thread, NULL, run_waiter, waiter);
	if (!ret)
		progress_wait(&waiter->progress);
	return ret;
}

static void on_signal(int signal)
{
}

TEST_F(engine, wait_interrupted)
{
	const struct sigaction action = { .sa_handler = on_signal };
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct waiter waiter;

	ASSERT_LT(0, id);
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	wait_done(&self->dev, id, 1);
	ASSERT_EQ(0, start_waiter(&waiter, &self->dev, id));
	ASSERT_EQ(0, pthread_kill(waiter.thread, SIGUSR1));
	ASSERT_EQ(0, pthread_join(waiter.thread, NULL));
	EXPECT_EQ(-EINTR, waiter.ret);
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, waiter.is.state);
	EXPECT_LT(0, waiter.is.done);

	/* That was nothing to the job. */
	wait_done(&self->dev, id, waiter.is.done + 1);
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, look_at(&self->dev, id).state);
	expect_cancelled(self, id, 0);
}

/* One gets the result; the other one learns that it is gone. */
TEST_F(engine, two_waiters)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct waiter a, b, *first;

	ASSERT_LT(0, id);
	ASSERT_EQ(0, start_waiter(&a, &self->dev, id));
	ASSERT_EQ(0, start_waiter(&b, &self->dev, id));
	ASSERT_EQ(0, dev_cancel(&self->dev, id));
	ASSERT_EQ(0, pthread_join(a.thread, NULL));
	ASSERT_EQ(0, pthread_join(b.thread, NULL));
	first = a.ret ? &b : &a;
	EXPECT_EQ(0, first->ret);
	EXPECT_EQ(-ECANCELED, first->is.status);
	EXPECT_EQ(-ENOENT, a.ret + b.ret);
}

/* The end of a job, by poll() and as a record. */
TEST_F(engine, record)
{
	struct devexcl_submit job = word_job(page_of(&self->mem, 2) + 8,
					     DEVEXCL_OP_ADD, 1, 2000);
	struct pollfd poller = { .fd = self->dev.fd, .events = POLLIN };
	struct devexcl_event event = {};
	struct devexcl_wait is;
	long id;

	acquire_pages(&self->dev, &self->mem, 2, 1);
	ASSERT_EQ(0, poll(&poller, 1, 0));
	id = dev_submit(&self->dev, &job);
	ASSERT_LT(0, id);
	ASSERT_EQ(1, poll(&poller, 1, 60000));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(DEVEXCL_EVENT_JOB, event.type);
	EXPECT_EQ(id, event.job);
	EXPECT_EQ(0, event.status);
	EXPECT_EQ(job.addr, event.start);
	EXPECT_EQ(job.addr + 8, event.end);
	EXPECT_EQ(0, poll(&poller, 1, 0));
	/* Who has read it need not wait any more. */
	ASSERT_EQ(0, dev_wait(&self->dev, id, 0, &is));
	EXPECT_EQ(2000, is.done);

	job.addr = (uintptr_t)page_of(&self->mem, 3);
	job.flags = 0;
	id = dev_submit(&self->dev, &job);
	ASSERT_EQ(1, poll(&poller, 1, 60000));
	ASSERT_EQ(1, dev_read_events(&self->dev, &event, 1));
	EXPECT_EQ(id, event.job);
	EXPECT_EQ(-EACCES, event.status);
}

TEST_F(engine, eventfd)
{
	struct devexcl_submit job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	int fd = eventfd(0, EFD_CLOEXEC), gone = eventfd(0, EFD_CLOEXEC);
	struct devexcl_wait is;
	uint64_t count = 0;
	long id, i;

	job.flags |= DEVEXCL_SUBMIT_EVENTFD;
	job.eventfd = fd;
	id = dev_submit(&self->dev, &job);
	ASSERT_LT(0, id);
	ASSERT_EQ(sizeof(count), read(fd, &count, sizeof(count)));
	EXPECT_EQ(1, count);
	/* Who has been told need not wait any more. */
	ASSERT_EQ(0, dev_wait(&self->dev, id, 0, &is));
	EXPECT_EQ(0, is.status);

	/* One for all, however they end. */
	for (i = 0; i < 3; i++) {
		ASSERT_LT(0, dev_submit(&self->dev, &job));
		job.flags &= ~ACQUIRE;
		job.addr += page_size();
	}
	for (i = 1; i <= 3; i++)
		expect_end(&self->dev, id + i, i == 1 ? 0 : -EACCES, &is);
	ASSERT_EQ(sizeof(count), read(fd, &count, sizeof(count)));
	EXPECT_EQ(3, count);
	close(fd);

	/* It stays as long as it is needed. */
	job.eventfd = gone;
	id = dev_submit(&self->dev, &job);
	ASSERT_LT(0, id);
	close(gone);
	expect_end(&self->dev, id, -EACCES, &is);
}

/* Cancelling */

TEST_F(engine, cancel_queued)
{
	struct devexcl_submit job = endless_job(&self->mem, 1);
	struct devexcl_stats before, after;
	struct devexcl_wait is;
	long first, id, last;
	int stop;

	stop = stop_engine(&self->dev, &self->mem, DEVEXCL_POINT_STORE, &first);
	ASSERT_LE(0, stop);
	job.engine = 0;
	id = dev_submit(&self->dev, &job);
	job.count = 1;
	last = dev_submit(&self->dev, &job);
	ASSERT_LT(0, last);
	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	ASSERT_EQ(0, dev_cancel(&self->dev, id));
	ASSERT_EQ(0, dev_stats(&self->dev, &after));
	EXPECT_EQ(1, after.jobs_cancelled - before.jobs_cancelled);
	EXPECT_EQ(before.jobs_completed, after.jobs_completed);
	/* At once, while the engine is where it was. */
	EXPECT_EQ(-EALREADY, dev_cancel(&self->dev, id));
	ASSERT_EQ(0, dev_wait(&self->dev, id, 0, &is));
	EXPECT_EQ(-ECANCELED, is.status);
	EXPECT_EQ(0, is.done);
	EXPECT_EQ(0, is.run_ns);
	EXPECT_EQ(DEVEXCL_JOB_QUEUED, look_at(&self->dev, last).state);
	close(stop);
	expect_end(&self->dev, first, 0, &is);
	expect_end(&self->dev, last, 0, &is);
	EXPECT_EQ(pattern_of(&self->mem, 1) + 1,
		  READ_MEM(word_of(&self->mem, 1)));
}

TEST_F(engine, cancel_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	unsigned int flags;
	long id;

	for (flags = 0; flags <= GAP; flags += GAP) {
		job.flags = ACQUIRE | flags;
		job.gap_ns = flags ? self->dev.info.max_gap_ns : 0;
		fill_mem(&self->mem);
		id = dev_submit(&self->dev, &job);
		ASSERT_LT(0, id);
		wait_done(&self->dev, id, 1);
		expect_cancelled(self, id, 0);
	}
	expect_references(&self->dev, &self->mem);
}

/* Once or twice, to this job only: the next one gets to its end. */
TEST_F(engine, cancel_is_for_one_job)
{
	struct devexcl_submit endless = endless_job(&self->mem, 0);
	struct devexcl_submit job = word_job(page_of(&self->mem, 1),
					     DEVEXCL_OP_ADD, 1, 2000);
	uint64_t done = 0;
	struct devexcl_wait is;
	long id, next;
	int i;

	endless.engine = 0;
	job.engine = 0;
	for (i = 0; i < 50; i++) {
		id = dev_submit(&self->dev, &endless);
		next = dev_submit(&self->dev, &job);
		ASSERT_LT(0, next);
		if (i % 2)
			wait_done(&self->dev, id, 1);
		ASSERT_EQ(0, dev_cancel(&self->dev, id));
		dev_cancel(&self->dev, id);
		expect_end(&self->dev, id, -ECANCELED, &is);
		done += is.done;
		expect_end(&self->dev, next, 0, &is);
		ASSERT_EQ(2000, is.done);
	}
	EXPECT_EQ(pattern_of(&self->mem, 0) + done,
		  READ_MEM(word_of(&self->mem, 0)));
	EXPECT_EQ(pattern_of(&self->mem, 1) + i * 2000,
		  READ_MEM(word_of(&self->mem, 1)));
}

/* What has ended has ended as it has. */
TEST_F(engine, cancel_ended)
{
	struct devexcl_submit job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	struct pollfd poller = { .fd = self->dev.fd, .events = POLLIN };
	struct devexcl_wait is;
	long id;

	acquire_pages(&self->dev, &self->mem, 0, 1);
	id = dev_submit(&self->dev, &job);
	ASSERT_LT(0, id);
	ASSERT_EQ(1, poll(&poller, 1, 60000));
	EXPECT_EQ(-EALREADY, dev_cancel(&self->dev, id));
	expect_end(&self->dev, id, 0, &is);
	EXPECT_EQ(1, is.done);
}

/* Where an engine can stop it can be cancelled. */
TEST_F(engine, cancel_at_breakpoint)
{
	const enum devexcl_point points[] = {
		DEVEXCL_POINT_FAULTED, DEVEXCL_POINT_SAMPLED,
		DEVEXCL_POINT_MADE, DEVEXCL_POINT_CHECK, DEVEXCL_POINT_INSTALL,
		DEVEXCL_POINT_STORE,
	};
	struct devexcl_wait is;
	uint64_t word;
	long id = 0;
	size_t i;
	int stop;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		dev_release(&self->dev, self->mem.p, 1);
		word = READ_MEM(word_of(&self->mem, 0));
		stop = stop_engine(&self->dev, &self->mem, points[i], &id);
		ASSERT_LE(0, stop);
		EXPECT_EQ(-ETIME, dev_wait(&self->dev, id, 0, &is));
		ASSERT_EQ(0, dev_cancel(&self->dev, id));
		ASSERT_EQ(0, dev_wait(&self->dev, id, PATIENCE, &is));
		/* From where it could not turn back it went to the end. */
		EXPECT_EQ(is.done ? 0 : -ECANCELED, is.status);
		EXPECT_EQ(points[i] != DEVEXCL_POINT_FAULTED &&
			  points[i] != DEVEXCL_POINT_SAMPLED, is.done);
		EXPECT_EQ(word + is.done, READ_MEM(word_of(&self->mem, 0)));
		close(stop);
	}
	expect_references(&self->dev, &self->mem);
}

/* userfaultfd */

/* Make a page missing until somebody fills it in. */
static int make_missing(void *p)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_register range = {
		.range = { (uintptr_t)p, page_size() },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &range) ||
	    madvise(p, page_size(), MADV_DONTNEED)) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

/* Wait until somebody waits for the page. */
static int wait_fault(int uffd)
{
	struct pollfd poller = { .fd = uffd, .events = POLLIN };

	return poll(&poller, 1, 60000) == 1 ? 0 : -ETIME;
}

static int fill_in(int uffd, void *p)
{
	struct uffdio_zeropage zero = {
		.range = { (uintptr_t)p, page_size() },
	};

	return ioctl(uffd, UFFDIO_ZEROPAGE, &zero) ? -errno : 0;
}

/* Pages 0 to 2 are there, and at page 3 the job has to wait. */
static int start_blocked_job(struct dev *dev, const struct mem *mem,
			     enum devexcl_pattern pattern, long *id)
{
	struct devexcl_submit job = {
		.flags = ACQUIRE,
		.addr = (uintptr_t)mem->p,
		.length = mem->size,
		.stride = page_size(),
		.count = PAGES,
		.operand = 1,
		.pattern = pattern,
		.engine = 0,
	};
	int uffd;

	if (pattern == DEVEXCL_PATTERN_CHASE) {
		job.stride = 8;
		*word_of(mem, 0) = (uintptr_t)word_of(mem, 2);
		*word_of(mem, 2) = (uintptr_t)word_of(mem, 1);
		*word_of(mem, 1) = (uintptr_t)word_of(mem, 3);
	}
	uffd = make_missing(page_of(mem, 3));
	if (uffd < 0)
		return uffd;
	*id = dev_submit(dev, &job);
	if (*id < 0 || wait_fault(uffd)) {
		close(uffd);
		return -EIO;
	}
	return uffd;
}

/* For kernels without userfaultfd, and for who may not use it. */
#define skip_without_userfaultfd(uffd)					\
do {									\
	if ((uffd) == -ENOSYS || (uffd) == -EPERM)			\
		SKIP(return, "no userfaultfd");				\
	ASSERT_LE(0, uffd);						\
} while (0)

TEST_F(engine, waits_for_userfaultfd)
{
	const enum devexcl_pattern patterns[] = {
		DEVEXCL_PATTERN_STRIDE, DEVEXCL_PATTERN_CHASE,
	};
	struct devexcl_wait is;
	size_t i;
	long id;
	int uffd;

	for (i = 0; i < ARRAY_SIZE(patterns); i++) {
		fill_mem(&self->mem);
		uffd = start_blocked_job(&self->dev, &self->mem, patterns[i],
					 &id);
		skip_without_userfaultfd(uffd);
		/* What was done before is told. */
		EXPECT_EQ(-ETIME, dev_wait(&self->dev, id, 0, &is));
		EXPECT_EQ(3, is.done);
		EXPECT_EQ(3, is.acquired);
		ASSERT_EQ(0, fill_in(uffd, page_of(&self->mem, 3)));
		expect_end(&self->dev, id, 0, &is);
		close(uffd);
		/* The missing node is 0 as all of its page: the last one. */
		EXPECT_EQ(patterns[i] == DEVEXCL_PATTERN_CHASE ? 4 : PAGES,
			  is.done);
	}
	expect_references(&self->dev, &self->mem);
}

/* The engine leaves the page that nobody brings, and is free again. */
TEST_F(engine, cancel_waiting_for_userfaultfd)
{
	struct devexcl_submit job;
	struct devexcl_wait is;
	long id, next;
	int uffd;

	uffd = start_blocked_job(&self->dev, &self->mem,
				 DEVEXCL_PATTERN_STRIDE, &id);
	skip_without_userfaultfd(uffd);
	job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	job.engine = 0;
	next = dev_submit(&self->dev, &job);
	ASSERT_LT(0, next);
	EXPECT_EQ(DEVEXCL_JOB_QUEUED, look_at(&self->dev, next).state);
	ASSERT_EQ(0, dev_cancel(&self->dev, id));
	expect_end(&self->dev, id, -ECANCELED, &is);
	EXPECT_EQ(3, is.done);
	expect_end(&self->dev, next, 0, &is);
	close(uffd);
	expect_references(&self->dev, &self->mem);
}

/* The end of a context */

/* An engine has nothing to do: it does what it is told. */
static const char *check_engine_free(FIXTURE_DATA(engine) *self)
{
	struct devexcl_submit job = word_job(page_of(&self->mem, PAGES - 1),
					     DEVEXCL_OP_ADD, 0, 1);
	struct devexcl_wait is;
	int ret;

	job.engine = 0;
	ret = run_job(&self->dev, &job, &is) ?: is.status;
	return ret ? say_wrong("engine is not free: %s", strerror(-ret)) : NULL;
}

TEST_F(engine, close_waiting_for_userfaultfd)
{
	struct dev other;
	long id;
	int uffd;

	ASSERT_EQ(0, dev_open(&other, 0));
	ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
	uffd = start_blocked_job(&other, &self->mem, DEVEXCL_PATTERN_STRIDE,
				 &id);
	skip_without_userfaultfd(uffd);
	dev_close(&other);
	expect_claim(check_engine_free(self));
	close(uffd);
	expect_references(&self->dev, &self->mem);
}

/* Jobs that run and jobs that wait: none does anything afterwards. */
TEST_F(engine, close_running)
{
	size_t nr = self->dev.info.max_jobs, i;
	uint64_t words[PAGES];
	struct dev other;

	ASSERT_EQ(0, dev_open(&other, 0));
	ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
	for (i = 0; i < nr; i++) {
		struct devexcl_submit job = endless_job(&self->mem, i % PAGES);

		job.engine = i % self->engines;
		ASSERT_LT(0, dev_submit(&other, &job));
	}
	for (i = 0; i < MIN(self->engines, PAGES); i++)
		wait_done(&other, i + 1, 1);
	dev_close(&other);

	for (i = 0; i < PAGES; i++) {
		expect_entries(&self->mem, i, 1,
			       i < MIN(self->engines, PAGES) ?
			       ENTRY_EXCLUSIVE : ENTRY_PRESENT);
		words[i] = READ_MEM(word_of(&self->mem, i));
	}
	for (i = 0; i < self->engines; i++) {
		struct devexcl_submit job = word_job(self->mem.p,
						     DEVEXCL_OP_ADD, 0, 1);
		struct devexcl_wait is;

		job.engine = i;
		ASSERT_EQ(0, run_job(&self->dev, &job, &is));
	}
	for (i = 0; i < PAGES; i++)
		EXPECT_EQ(words[i], READ_MEM(word_of(&self->mem, i)));
	expect_references(&self->dev, &self->mem);
}

/* Not before the last descriptor is closed. */
TEST_F(engine, close_not_last)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is;

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	close(dup(self->dev.fd));
	is = look_at(&self->dev, id);
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, is.state);
	wait_done(&self->dev, id, is.done + 1);
	expect_cancelled(self, id, 0);
}

/* The end of an address space */

/* What a child sends: its device, and another file. */
struct legacy {
	struct dev dev;
	int file;
	pid_t pid;
	int sock;
};

/*
 * A child that has a device and memory of its own, of which @set_up makes
 * something; the parent gets its device, and the file that @set_up returns.
 */
static int start_owner(struct legacy *legacy,
		       int (*set_up)(struct dev *dev, const struct mem *mem))
{
	int sock[2], file;
	struct dev dev;
	struct mem mem;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock))
		return -errno;
	legacy->pid = fork();
	if (legacy->pid) {
		close(sock[0]);
		legacy->sock = sock[1];
		legacy->dev.fd = receive_fd(sock[1]);
		legacy->file = receive_fd(sock[1]);
		return legacy->file < 0 ? -EPIPE : 0;
	}
	close(sock[1]);
	if (dev_open(&dev, 0) || mem_map(&mem, PAGES) ||
	    dev_mirror(&dev, mem.p, mem.size))
		_exit(1);
	file = set_up(&dev, &mem);
	if (file < 0 || send_fd(sock[0], dev.fd) || send_fd(sock[0], file))
		_exit(2);
	/* Until the parent is there, or has said so. */
	if (read(sock[0], &file, 1) < 0)
		_exit(3);
	_exit(0);
}

static int end_owner(struct legacy *legacy)
{
	close(legacy->sock);
	return wait_child(legacy->pid);
}

static int set_up_running(struct dev *dev, const struct mem *mem)
{
	struct devexcl_submit job = endless_job(mem, 0);

	if (dev_submit(dev, &job) != 1)
		return -1;
	wait_done(dev, 1, 1);
	return dev->fd;
}

static int set_up_blocked(struct dev *dev, const struct mem *mem)
{
	struct devexcl_submit job = endless_job(mem, 1);
	int uffd = make_missing(page_of(mem, 1));

	job.engine = 0;
	if (uffd < 0)
		return dup(0);	/* not a userfaultfd */
	if (dev_submit(dev, &job) != 1 || wait_fault(uffd))
		return -1;
	return uffd;
}

static bool is_userfaultfd(int fd)
{
	struct uffdio_range range = {};

	return ioctl(fd, UFFDIO_WAKE, &range) && errno != ENOTTY;
}

#define expect_nothing_left(dev)					\
do {									\
	struct devexcl_stats _stats;					\
									\
	ASSERT_EQ(0, dev_stats(dev, &_stats));				\
	EXPECT_EQ(0, _stats.held);					\
	EXPECT_EQ(0, _stats.mapped);					\
} while (0)

TEST_F(engine, owner_exits_while_running)
{
	struct legacy legacy = {};
	struct devexcl_wait is;

	ASSERT_EQ(0, start_owner(&legacy, set_up_running));
	ASSERT_EQ(0, end_owner(&legacy));
	expect_end(&legacy.dev, 1, -ESRCH, &is);
	EXPECT_LT(0, is.done);
	expect_nothing_left(&legacy.dev);
	close(legacy.file);
	close(legacy.dev.fd);
	expect_references(&self->dev, &self->mem);
}

/* Bring the page that somebody waits for. */
static int fill_in_next(int uffd)
{
	struct uffd_msg msg = {};

	if (read(uffd, &msg, sizeof(msg)) != sizeof(msg))
		return -errno;
	return fill_in(uffd, (void *)(uintptr_t)(msg.arg.pagefault.address &
						 -page_size()));
}

/* The engine is the last user of the address space, and takes it down. */
TEST_F(engine, owner_exits_first)
{
	struct legacy legacy = {};
	struct devexcl_wait is;

	ASSERT_EQ(0, start_owner(&legacy, set_up_blocked));
	ASSERT_EQ(0, end_owner(&legacy));
	if (!is_userfaultfd(legacy.file))
		SKIP(return, "no userfaultfd");
	EXPECT_EQ(-ETIME, dev_wait(&legacy.dev, 1, 0, &is));
	EXPECT_EQ(DEVEXCL_JOB_RUNNING, is.state);
	EXPECT_EQ(0, is.done);
	ASSERT_EQ(0, fill_in_next(legacy.file));
	expect_end(&legacy.dev, 1, -ESRCH, &is);
	EXPECT_LT(0, is.done);
	expect_nothing_left(&legacy.dev);
	close(legacy.file);
	close(legacy.dev.fd);
	expect_claim(check_engine_free(self));
}

/* Likewise; and what it waited for is not going to come. */
TEST_F(engine, owner_exits_while_blocked)
{
	struct legacy legacy = {};
	struct devexcl_wait is;

	ASSERT_EQ(0, start_owner(&legacy, set_up_blocked));
	ASSERT_EQ(0, end_owner(&legacy));
	if (!is_userfaultfd(legacy.file))
		SKIP(return, "no userfaultfd");
	EXPECT_EQ(-ETIME, dev_wait(&legacy.dev, 1, 0, &is));
	ASSERT_EQ(0, dev_cancel(&legacy.dev, 1));
	expect_end(&legacy.dev, 1, -ECANCELED, &is);
	EXPECT_EQ(0, is.done);
	expect_nothing_left(&legacy.dev);
	close(legacy.dev.fd);
	close(legacy.file);
	expect_claim(check_engine_free(self));
}

/* It dies, and with it the only descriptor of the device. */
TEST_F(engine, owner_killed_while_blocked)
{
	struct legacy legacy = {};

	ASSERT_EQ(0, start_owner(&legacy, set_up_blocked));
	if (!is_userfaultfd(legacy.file))
		SKIP(return, "no userfaultfd");
	close(legacy.dev.fd);
	ASSERT_EQ(0, kill(legacy.pid, SIGKILL));
	EXPECT_EQ(-SIGKILL, end_owner(&legacy));
	expect_claim(check_engine_free(self));
	close(legacy.file);
}

/* How a program that was executed learns of a device. */
#define EXEC_FD	"DEVEXCL_ENGINE_FD"

/* What this program does when it was executed by the test below. */
static void __attribute__((constructor)) run_after_exec(void)
{
	const char *fd = getenv(EXEC_FD);
	struct dev dev = { .fd = fd ? atoi(fd) : 0 };
	struct devexcl_submit job = {};
	struct devexcl_wait is;
	int ret;

	if (!fd)
		return;
	ret = dev_wait(&dev, 1, PATIENCE, &is);
	if (ret || is.status != -ESRCH || !is.done)
		fprintf(stderr, "# WAIT is %d, status %d\n", ret, is.status);
	else if (dev_submit(&dev, &job) == -ESRCH)
		_exit(0);
	_exit(1);
}

TEST_F(engine, exec)
{
	char number[16];
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct dev dev;

		if (dev_open(&dev, 0) ||
		    dev_mirror(&dev, self->mem.p, self->mem.size) ||
		    set_up_running(&dev, &self->mem) < 0)
			_exit(2);
		snprintf(number, sizeof(number), "%d", dup(dev.fd));
		setenv(EXEC_FD, number, 1);
		execl("/proc/self/exe", "engine", NULL);
		_exit(127);
	}
	EXPECT_EQ(0, wait_child(pid));
	expect_references(&self->dev, &self->mem);
}

/* Others work on the same memory */

/*
 * fork() fails if a device has just locked a page, whose entry it would have
 * to restore. That is tested elsewhere.
 */
static pid_t fork_at_last(void)
{
	int tries = 1000;
	pid_t pid;

	do {
		pid = fork();
	} while (pid < 0 && errno == ENOMEM && tries--);
	return pid;
}

/* The child has what was there at one moment, and it does not change. */
TEST_F(engine, fork_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	int i;

	ASSERT_LT(0, id);
	for (i = 0; i < 5; i++) {
		uint64_t *word = word_of(&self->mem, 0), was;
		struct devexcl_wait is = look_at(&self->dev, id);
		pid_t pid;

		wait_done(&self->dev, id, is.done + 1);
		pid = fork_at_last();
		ASSERT_LE(0, pid);
		if (!pid) {
			was = READ_MEM(word);
			is = look_at(&self->dev, id);
			wait_done(&self->dev, id, is.done + 500);
			_exit(was == READ_MEM(word) ? 0 : 1);
		}
		ASSERT_EQ(0, wait_child(pid));
	}
	expect_cancelled(self, id, 0);
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, release_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is = {};
	int i;

	ASSERT_LT(0, id);
	for (i = 0; i < 20; i++) {
		wait_done(&self->dev, id, is.done + 1);
		ASSERT_LE(0, dev_release(&self->dev, self->mem.p, 1));
		is = look_at(&self->dev, id);
	}
	expect_cancelled(self, id, 0);
}

/* The device makes one mistake after the other; then all is well again. */
TEST_F(engine, broken_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is;
	unsigned int bit, i;

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	for (bit = 0; self->dev.info.broken >> bit; bit++) {
		ASSERT_EQ(0, dev_inject(&self->dev, 1U << bit, bit));
		for (i = 0; i < 5; i++) {
			WRITE_MEM(word_of(&self->mem, 0), i);
			ASSERT_LE(0, dev_release(&self->dev, self->mem.p, 1));
		}
		EXPECT_EQ(DEVEXCL_JOB_RUNNING, look_at(&self->dev, id).state);
	}
	ASSERT_EQ(0, dev_inject(&self->dev, 0, 0));
	ASSERT_LE(0, dev_release(&self->dev, self->mem.p, PAGES));
	fill_mem(&self->mem);
	ASSERT_EQ(0, dev_cancel(&self->dev, id));
	expect_end(&self->dev, id, -ECANCELED, &is);
	expect_references(&self->dev, &self->mem);
}

TEST_F(engine, unmirror_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is;

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	ASSERT_EQ(0, dev_unmirror(&self->dev, self->mem.p, self->mem.size));
	expect_end(&self->dev, id, -ENXIO, &is);
	EXPECT_EQ(pattern_of(&self->mem, 0) + is.done,
		  READ_MEM(word_of(&self->mem, 0)));
}

TEST_F(engine, mprotect_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is;

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	ASSERT_EQ(0, mprotect(self->mem.p, page_size(), PROT_READ));
	expect_end(&self->dev, id, -EFAULT, &is);
	EXPECT_EQ(pattern_of(&self->mem, 0) + is.done,
		  READ_MEM(word_of(&self->mem, 0)));
}

TEST_F(engine, munmap_while_running)
{
	struct devexcl_submit job = endless_job(&self->mem, 0);
	long id = dev_submit(&self->dev, &job);
	struct devexcl_wait is;

	ASSERT_LT(0, id);
	wait_done(&self->dev, id, 1);
	ASSERT_EQ(0, munmap(self->mem.p, page_size()));
	expect_end(&self->dev, id, -EFAULT, &is);
	EXPECT_LT(0, is.done);
}

/* Threads and engines of two devices add to the same words. */
#define WORDS		4
#define SHARE		200	/* operations of an engine */
/* So long that the device sleeps, and others come in between if they can. */
#define GAP_NS		20000

/**
 * struct party - one that adds
 * @dev: with this device, or NULL
 * @engine: and this engine
 * @mem: to words at the beginning of this
 * @working: engines that have not done their share
 * @thread: itself
 * @done: operations
 * @error: negative errno, or 0
 */
struct party {
	struct dev *dev;
	unsigned int engine;
	const struct mem *mem;
	unsigned int *working;
	pthread_t thread;
	uint64_t done;
	int error;
};

/* For as long as any engine does, with some rest so that they get the page. */
static void add_by_cpu(struct party *party)
{
	uint64_t *words = word_of(party->mem, 0);

	while (__atomic_load_n(party->working, __ATOMIC_ACQUIRE)) {
		__atomic_fetch_add(&words[party->done++ % WORDS], 1,
				   __ATOMIC_SEQ_CST);
		if (!(party->done % 8))
			usleep(20);
	}
}

/*
 * A device may have to give up a job if it has been refused too often, by a
 * kernel that does not wait for locks of folios. Then there is a rest.
 */
static void add_by_engine(struct party *party)
{
	struct devexcl_submit job = {
		.flags = ACQUIRE | GAP,
		.addr = (uintptr_t)party->mem->p,
		.length = WORDS * sizeof(uint64_t),
		.stride = sizeof(uint64_t),
		.operand = 1,
		.pattern = DEVEXCL_PATTERN_STRIDE,
		.engine = party->engine,
		.gap_ns = GAP_NS,
	};
	struct devexcl_wait is;

	while (party->done < SHARE && !party->error) {
		job.count = SHARE - party->done;
		party->error = run_job(party->dev, &job, &is);
		if (!party->error && is.status != -EBUSY)
			party->error = is.status;
		party->done += is.done;
	}
	__atomic_sub_fetch(party->working, 1, __ATOMIC_RELEASE);
}

static void *run_party(void *arg)
{
	struct party *party = arg;

	if (party->dev)
		add_by_engine(party);
	else
		add_by_cpu(party);
	return NULL;
}

static uint64_t sum_of_words(const struct mem *mem)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < WORDS; i++)
		sum += READ_MEM(word_of(mem, 0) + i);
	return sum;
}

TEST_F(engine, nothing_is_lost)
{
	unsigned int working = 3, i;
	struct dev other;
	struct party parties[] = {
		{ .dev = NULL },
		{ .dev = &self->dev, .engine = 0 },
		{ .dev = &self->dev, .engine = self->engines - 1 },
		{ .dev = &other, .engine = DEVEXCL_ENGINE_ANY },
	}, *party, *end = parties + ARRAY_SIZE(parties);
	uint64_t sum = sum_of_words(&self->mem);

	if (self->dev.info.ndevices < 2)
		SKIP(return, "there is one device only");
	ASSERT_EQ(0, dev_open(&other, 1));
	ASSERT_EQ(0, break_driver(&other));
	ASSERT_EQ(0, dev_mirror(&other, self->mem.p, self->mem.size));
	for (party = parties; party < end; party++) {
		party->mem = &self->mem;
		party->working = &working;
		ASSERT_EQ(0, pthread_create(&party->thread, NULL, run_party,
					    party));
	}
	for (i = 0; i < 3; i++) {
		pid_t pid = fork_at_last();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(0);
		ASSERT_EQ(0, wait_child(pid));
		madvise(self->mem.p, page_size(), MADV_COLD);
	}
	for (party = parties; party < end; party++) {
		ASSERT_EQ(0, pthread_join(party->thread, NULL));
		EXPECT_EQ(0, party->error);
		sum += party->done;
	}
	EXPECT_EQ(sum, sum_of_words(&self->mem));
	dev_close(&other);
}

/* Bad input */

/* Nothing is filled in. */
static int submit_as_is(struct dev *dev, struct devexcl_submit job)
{
	job.size = sizeof(job);
	return dev_ioctl(dev->fd, DEVEXCL_SUBMIT, &job);
}

/* A good job, but for what is given. */
#define BAD(_error, ...) {						\
	.error = _error,						\
	.job = {							\
		.flags = ACQUIRE,					\
		.addr = p,						\
		.length = 64,						\
		.stride = 8,						\
		.count = 1,						\
		.repeat = 1,						\
		.width = 8,						\
		.pattern = DEVEXCL_PATTERN_STRIDE,			\
		.engine = DEVEXCL_ENGINE_ANY,				\
		__VA_ARGS__						\
	}								\
}

TEST_F(engine, bad_jobs)
{
	uint64_t p = (uintptr_t)self->mem.p, size = self->mem.size;
	uint32_t max_gap = self->dev.info.max_gap_ns;
	const struct {
		int error;
		struct devexcl_submit job;
	} jobs[] = {
		BAD(-EINVAL, .addr = p + 1),
		BAD(-EINVAL, .addr = p + 4),
		BAD(-EINVAL, .addr = p + 2, .width = 4),
		BAD(-EINVAL, .length = 0),
		BAD(-EINVAL, .length = 4),
		BAD(-EINVAL, .length = 63),
		BAD(-EINVAL, .length = UINT64_MAX),
		BAD(-EOVERFLOW, .length = -8ULL),
		BAD(-EOVERFLOW, .length = -p),
		BAD(-EOVERFLOW, .addr = -64ULL),
		BAD(-ENXIO, .length = size + 8),
		BAD(-ENXIO, .length = 1ULL << 62),
		BAD(-ENXIO, .addr = p - 8),
		BAD(-ENXIO, .addr = p + size),
		BAD(-ENXIO, .addr = p + size - 56),
		BAD(-ENXIO, .addr = 0),
		BAD(-EINVAL, .count = 0),
		BAD(-EINVAL, .repeat = 0),
		BAD(-EINVAL, .stride = 0),
		BAD(-EINVAL, .stride = 4),
		BAD(-EINVAL, .stride = 64),
		BAD(-EINVAL, .stride = -8ULL),
		BAD(-EINVAL, .stride = 1ULL << 63),
		BAD(-EINVAL, .seed = 1),
		BAD(-EINVAL, .seed = 1ULL << 63),
		BAD(-EINVAL, .op = DEVEXCL_OP_NR),
		BAD(-EINVAL, .op = 255),
		BAD(-EINVAL, .width = 0),
		BAD(-EINVAL, .width = 3),
		BAD(-EINVAL, .width = 16),
		BAD(-EINVAL, .width = 255),
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_NR),
		BAD(-EINVAL, .pattern = UINT16_MAX),
		BAD(-EINVAL, .engine = self->engines),
		BAD(-EINVAL, .engine = UINT32_MAX - 1),
		BAD(-EINVAL, .gap_ns = 1),
		BAD(-EINVAL, .flags = GAP, .gap_ns = max_gap + 1),
		BAD(-EINVAL, .flags = GAP, .gap_ns = UINT32_MAX),
		BAD(-EINVAL, .eventfd = 1),
		BAD(-EINVAL, .eventfd = -1),
		BAD(-EBADF, .flags = DEVEXCL_SUBMIT_EVENTFD, .eventfd = -1),
		BAD(-EBADF, .flags = DEVEXCL_SUBMIT_EVENTFD,
		    .eventfd = INT32_MAX),
		BAD(-EINVAL, .flags = DEVEXCL_SUBMIT_EVENTFD,
		    .eventfd = self->dev.fd),
		BAD(-EINVAL, .reserved = 1),
		/* Word */
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_WORD, .stride = 0),
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_WORD, .length = 8),
		/* Random */
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_RANDOM),
		/* Chase */
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_CHASE, .seed = 1),
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_CHASE, .width = 4,
		    .addr = p + 4),
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_CHASE,
		    .stride = page_size()),
		BAD(-EINVAL, .pattern = DEVEXCL_PATTERN_CHASE, .stride = 4),
		BAD(0, .width = 8),	/* it is really good */
	};
	struct devexcl_stats before, after;
	struct devexcl_event event;
	size_t i;

	dev_forget_events(&self->dev);
	ASSERT_EQ(0, dev_stats(&self->dev, &before));
	for (i = 0; i < ARRAY_SIZE(jobs); i++) {
		if (!jobs[i].error) {
			ASSERT_EQ(0, dev_stats(&self->dev, &after));
			EXPECT_EQ(0, memcmp(&before, &after, sizeof(after)));
			EXPECT_EQ(0, dev_read_events(&self->dev, &event, 1));
		}
		EXPECT_EQ(jobs[i].error,
			  submit_as_is(&self->dev, jobs[i].job))
			TH_LOG("job %zu", i);
	}
}

/* Coverage */

#ifndef KCOV_REMOTE_ENABLE
struct kcov_remote_arg {
	__u32 trace_mode;
	__u32 area_size;
	__u32 num_handles;
	__aligned_u64 common_handle;
	__aligned_u64 handles[];
};

#define KCOV_INIT_TRACE		_IOR('c', 1, unsigned long)
#define KCOV_DISABLE		_IO('c', 101)
#define KCOV_REMOTE_ENABLE	_IOW('c', 102, struct kcov_remote_arg)
#define KCOV_TRACE_PC		0
#endif

#define COVER_SIZE	(64 << 10)

/* What an engine does for a task is told to the task's collector. */
TEST_F(engine, kcov)
{
	struct devexcl_submit job = word_job(self->mem.p, DEVEXCL_OP_ADD, 1, 1);
	struct kcov_remote_arg arg = {
		.trace_mode = KCOV_TRACE_PC,
		.area_size = COVER_SIZE,
		.common_handle = 0x4711,
	};
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	struct devexcl_wait is;
	unsigned long *cover;

	if (fd < 0)
		SKIP(return, "no kcov: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(fd, KCOV_INIT_TRACE, COVER_SIZE));
	cover = mmap(NULL, COVER_SIZE * sizeof(*cover), PROT_READ | PROT_WRITE,
		     MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, cover);
	ASSERT_EQ(0, ioctl(fd, KCOV_REMOTE_ENABLE, &arg));
	__atomic_store_n(&cover[0], 0, __ATOMIC_RELAXED);
	EXPECT_EQ(0, run_job(&self->dev, &job, &is));
	EXPECT_LT(0, __atomic_load_n(&cover[0], __ATOMIC_RELAXED));
	ASSERT_EQ(0, ioctl(fd, KCOV_DISABLE, 0));
	munmap(cover, COVER_SIZE * sizeof(*cover));
	close(fd);
}

DEVEXCL_TEST_MAIN
