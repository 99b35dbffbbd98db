/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of the emulated device-exclusive device
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM devexcl

#if !defined(_TEST_DEVEXCL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TEST_DEVEXCL_TRACE_H

#include <linux/tracepoint.h>
#include <uapi/linux/test_devexcl_uapi.h>

#define show_devexcl_cause(cause)					\
	__print_symbolic(cause,						\
		{ DEVEXCL_CAUSE_UNMAP,		 "unmap" },		\
		{ DEVEXCL_CAUSE_CLEAR,		 "clear" },		\
		{ DEVEXCL_CAUSE_PROTECTION_VMA,	 "protection_vma" },	\
		{ DEVEXCL_CAUSE_PROTECTION_PAGE, "protection_page" },	\
		{ DEVEXCL_CAUSE_SOFT_DIRTY,	 "soft_dirty" },	\
		{ DEVEXCL_CAUSE_RELEASE,	 "release" },		\
		{ DEVEXCL_CAUSE_MIGRATE,	 "migrate" },		\
		{ DEVEXCL_CAUSE_EXCLUSIVE,	 "exclusive" },		\
		{ DEVEXCL_CAUSE_OTHER,		 "other" })

#define show_devexcl_owner(owner)					\
	__print_symbolic(owner,						\
		{ DEVEXCL_OWNER_NONE,	 "none" },			\
		{ DEVEXCL_OWNER_OWN,	 "own" },			\
		{ DEVEXCL_OWNER_FOREIGN, "foreign" })

#define show_devexcl_pattern(pattern)					\
	__print_symbolic(pattern,					\
		{ DEVEXCL_PATTERN_WORD,	  "word" },			\
		{ DEVEXCL_PATTERN_STRIDE, "stride" },			\
		{ DEVEXCL_PATTERN_RANDOM, "random" },			\
		{ DEVEXCL_PATTERN_CHASE,  "chase" })

/* One page was made exclusive (ret 0), or could not be. */
TRACE_EVENT(devexcl_acquire,
	TP_PROTO(const void *ctx, unsigned long addr, int ret),
	TP_ARGS(ctx, addr, ret),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long, addr)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->addr = addr;
		__entry->ret = ret;
	),
	TP_printk("ctx=%p addr=%#lx ret=%d", __entry->ctx, __entry->addr,
		  __entry->ret)
);

/* A notifier was called; how many exclusive pages the device let go. */
TRACE_EVENT(devexcl_revoke,
	TP_PROTO(const void *ctx, unsigned long start, unsigned long end,
		 unsigned int cause, unsigned int owner, unsigned int dropped),
	TP_ARGS(ctx, start, end, cause, owner, dropped),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned int, cause)
		__field(unsigned int, owner)
		__field(unsigned int, dropped)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->start = start;
		__entry->end = end;
		__entry->cause = cause;
		__entry->owner = owner;
		__entry->dropped = dropped;
	),
	TP_printk("ctx=%p range=%#lx-%#lx cause=%s owner=%s dropped=%u",
		  __entry->ctx, __entry->start, __entry->end,
		  show_devexcl_cause(__entry->cause),
		  show_devexcl_owner(__entry->owner), __entry->dropped)
);

/* One atomic operation was carried out. */
TRACE_EVENT(devexcl_atomic,
	TP_PROTO(const void *ctx, const struct devexcl_atomic_op *op),
	TP_ARGS(ctx, op),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(u64, addr)
		__field(u64, operand)
		__field(u64, old)
		__field(u8, op)
		__field(u8, width)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->addr = op->addr;
		__entry->operand = op->operand;
		__entry->old = op->old;
		__entry->op = op->op;
		__entry->width = op->width;
	),
	TP_printk("ctx=%p addr=%#llx op=%u width=%u operand=%#llx old=%#llx",
		  __entry->ctx, __entry->addr, __entry->op, __entry->width,
		  __entry->operand, __entry->old)
);

/* The sequence had moved: the page is let go and work begins anew. */
TRACE_EVENT(devexcl_retry,
	TP_PROTO(const void *ctx, unsigned long addr, unsigned int round),
	TP_ARGS(ctx, addr, round),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long, addr)
		__field(unsigned int, round)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->addr = addr;
		__entry->round = round;
	),
	TP_printk("ctx=%p addr=%#lx round=%u", __entry->ctx, __entry->addr,
		  __entry->round)
);

/* An engine begins to work on a job. */
TRACE_EVENT(devexcl_job_begin,
	TP_PROTO(const void *ctx, const struct devexcl_submit *job),
	TP_ARGS(ctx, job),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(u64, addr)
		__field(u64, length)
		__field(u64, count)
		__field(u64, repeat)
		__field(u32, id)
		__field(u32, engine)
		__field(u32, pattern)
		__field(u8, op)
		__field(u8, width)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->addr = job->addr;
		__entry->length = job->length;
		__entry->count = job->count;
		__entry->repeat = job->repeat;
		__entry->id = job->id;
		__entry->engine = job->engine;
		__entry->pattern = job->pattern;
		__entry->op = job->op;
		__entry->width = job->width;
	),
	TP_printk("ctx=%p job=%u engine=%u pattern=%s addr=%#llx length=%#llx op=%u width=%u count=%llu repeat=%llu",
		  __entry->ctx, __entry->id, __entry->engine,
		  show_devexcl_pattern(__entry->pattern), __entry->addr,
		  __entry->length, __entry->op, __entry->width,
		  __entry->count, __entry->repeat)
);

/* A job has ended. */
TRACE_EVENT(devexcl_job_end,
	TP_PROTO(const void *ctx, const struct devexcl_submit *job, int status,
		 u64 done),
	TP_ARGS(ctx, job, status, done),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(u64, done)
		__field(u32, id)
		__field(u32, engine)
		__field(int, status)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->done = done;
		__entry->id = job->id;
		__entry->engine = job->engine;
		__entry->status = status;
	),
	TP_printk("ctx=%p job=%u engine=%u status=%d done=%llu", __entry->ctx,
		  __entry->id, __entry->engine, __entry->status, __entry->done)
);

#endif /* _TEST_DEVEXCL_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE test_devexcl_trace
#include <trace/define_trace.h>
