/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How the ioctls of both devices take their structures
 *
 * The rules are told in <uapi/linux/test_devexcl_uapi.h>.
 */
#ifndef _TEST_DEVEXCL_IOCTL_H
#define _TEST_DEVEXCL_IOCTL_H

#include <linux/mm.h>
#include <linux/uaccess.h>

/**
 * struct devexcl_head - what the structure of each ioctl begins with
 * @size: of the structure, in bytes, as user space knows it
 * @flags: of the ioctl
 */
struct devexcl_head {
	__u32 size;
	__u32 flags;
};

/**
 * devexcl_get_args() - take the structure of an ioctl from user space
 * @args: filled with it; it begins with a &struct devexcl_head
 * @size: of it in bytes, as this kernel knows it
 * @flags: the flags that the ioctl knows
 * @user: where it is
 *
 * It is written back as well, as it is: an answer that could not be given must
 * not have been earned.
 *
 * Context: process, with no lock held: user memory may fault.
 *
 * Return: 0, or -EFAULT, -EINVAL (too small, or unknown flags), -E2BIG (longer
 * than a page, or something follows that is not zero).
 */
static inline int devexcl_get_args(void *args, size_t size, u32 flags,
				   void __user *user)
{
	struct devexcl_head *head = args;
	u32 given;
	int ret;

	if (get_user(given, (u32 __user *)user))
		return -EFAULT;
	if (given < size)
		return -EINVAL;
	if (given > PAGE_SIZE)
		return -E2BIG;
	ret = copy_struct_from_user(args, size, user, given);
	if (ret)
		return ret;
	if (head->flags & ~flags)
		return -EINVAL;
	/* User space may have changed it since. */
	head->size = given;
	return copy_to_user(user, args, size) ? -EFAULT : 0;
}

#endif /* _TEST_DEVEXCL_IOCTL_H */
