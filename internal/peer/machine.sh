#!/bin/sh
# Makes a machine of a root tree and keeps it until standard input ends. It is run
# as root in mount, UTS and IPC namespaces of its own, in the network namespace
# that the machine is to have.
#
# usage: machine.sh TREE PLACE NAME
#
# PLACE is an empty folder, NAME that of the machine's control group. The id of
# the process whose namespaces, root and control group are the machine's is
# printed when they are there.
set -eu
tree=$1 place=$2 group=$place/cgroup/$3

mount -t tmpfs -o mode=755 machine "$place"
cd "$place"
mkdir upper work root cgroup
mount -t cgroup2 cgroup2 cgroup
mount -t overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" machine root

cd root
mount -t proc proc proc
# Of the settings of the kernel only the network's are the machine's own.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
	IFS=: read -r name major minor <<-DEVICE
		$device
	DEVICE
	mknod -m 666 "dev/$name" c "$major" "$minor"
done
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
# Engines stack overlays of their own here, and not on one.
for engine in docker containerd containers; do
	mkdir -p "var/lib/$engine"
	mount -t tmpfs -o mode=711 "$engine" "var/lib/$engine"
done
mkdir run/lock
hostname "$3"

mkdir "$group"
if ! [ -e "$group/cgroup.kill" ]; then
	rmdir "$group"
	echo 'control groups cannot be killed here: that takes Linux 5.14' >&2
	exit 1
fi
(
	echo 0 >"$group/cgroup.procs"
	# shellcheck disable=SC2016 # for the inner shell
	exec unshare --cgroup --mount --propagation private -- sh -euc '
		mount -t cgroup2 cgroup2 sys/fs/cgroup
		# Control groups that have children and pass controllers on hold no process.
		mkdir sys/fs/cgroup/init
		echo 0 >sys/fs/cgroup/init/cgroup.procs
		pivot_root . mnt
		umount -l /mnt
		echo $$
		exec sleep infinity'
) &
exec >&- # who waits for the id sees when that process ends

cat >/dev/null
echo 1 >"$group/cgroup.kill"
while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.01; done
find "$group" -depth -type d -exec rmdir {} +
