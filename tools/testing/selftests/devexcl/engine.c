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
#include <sys/syscall.h>
#include <sys/wait.h>

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
			addr += (uint64_t)((unsigned __int128)words *
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

DEVEXCL_TEST_MAIN
