/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What all tests of the aperture share
 *
 * A test opens the device, creates an object, says what its pages are like,
 * maps it, touches it, and looks at what the page table has got. The rules of
 * devexcl_util.h hold: functions return 0 or a negative errno, claims return
 * NULL or say what is wrong.
 */
#ifndef _DEVEXCL_APERTURE_H
#define _DEVEXCL_APERTURE_H

#include "devexcl_util.h"

/**
 * struct aperture - an open aperture
 * @fd: its file
 * @info: what DEVEXCL_APERTURE_INFO said
 */
struct aperture {
	int fd;
	struct devexcl_aperture_info info;
};

/**
 * struct object - an object of an aperture
 * @ap: the aperture
 * @id: its number
 * @pages: its length
 * @offset: where the file has it
 * @caching: what POLICY asks for
 */
struct object {
	struct aperture *ap;
	uint32_t id;
	uint32_t pages;
	uint64_t offset;
	uint32_t caching;
};

/*
 * Open the device, or the one with the newer hook; 0 or -errno. A zeroed
 * structure is not closed.
 */
int aperture_open(struct aperture *ap, bool prepare);
void aperture_close(struct aperture *ap);

static inline bool aperture_can(const struct aperture *ap, uint64_t cap)
{
	return ap->info.caps & cap;
}

static inline bool aperture_can_insert(const struct aperture *ap,
				       enum devexcl_insert insert)
{
	return ap->info.inserts & (1U << insert);
}

/*
 * Create an object like @like, whose size is filled in, and whose batch is one
 * page if it is zero.
 */
int object_create(struct aperture *ap, struct object *obj,
		  const struct devexcl_aperture_create *like);
/* How pages are inserted; their caching mode stays. */
int object_policy(struct object *obj, uint32_t first, uint32_t count,
		  enum devexcl_insert insert, uint32_t flags);
/* The same, and they get another caching mode. */
int object_recache(struct object *obj, uint32_t first, uint32_t count,
		   enum devexcl_insert insert, enum devexcl_caching caching);
int object_move(struct object *obj, enum devexcl_placement placement,
		enum devexcl_caching caching, uint32_t pause_ms);
int object_zap(struct object *obj, uint32_t flags);
/* Pages whose entries were writable, or -errno. */
long object_clean(struct object *obj);
int object_inject(struct object *obj, uint32_t broken, uint32_t fail_after);
/* What the device knows of a page; all zero if that fails. */
struct devexcl_aperture_page object_page(struct object *obj, uint32_t n);
/* The device's own access to the word at the beginning of a page. */
int object_store(struct object *obj, uint32_t n, uint64_t value);
uint64_t object_load(struct object *obj, uint32_t n);

/* mmap() all of an object; 0 or -errno. For mem_unmap(). */
int object_map(struct object *obj, struct mem *mem, int prot, int flags);

/* The caller's page table at @p; all zero, with kind ~0, if that fails. */
struct devexcl_entry entry_at(const struct aperture *ap, const void *p);

/* The entry of a page is present, or huge, or not. */
const char *check_kind(const struct aperture *ap, const struct mem *mem,
		       size_t page, enum devexcl_entry_kind kind);
/* Of these flags exactly those are set in the entry of a page. */
const char *check_flags(const struct aperture *ap, const struct mem *mem,
			size_t page, uint32_t flags, uint32_t set);
const char *check_caching(const struct aperture *ap, const struct mem *mem,
			  size_t page, enum devexcl_caching caching);
/* It maps this page frame. */
const char *check_pfn(const struct aperture *ap, const struct mem *mem,
		      size_t page, uint64_t pfn);

/*
 * Pin a page or more for long, for reading, as a device does that goes on to
 * read it: a file, or -errno. Closing it unpins. -ENOENT if there is no gup_test,
 * -EINVAL if it cannot do that.
 */
int pin_longterm(const void *p, size_t size);
/* Read all of what is pinned. */
int pin_read(int pin, void *buffer);

#endif /* _DEVEXCL_APERTURE_H */
