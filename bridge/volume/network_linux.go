package volume

import "golang.org/x/sys/unix"

// lustreMagic is the magic number of Lustre, which package unix does not have.
const lustreMagic = 0x0bd00bd0

func networkOf(dir string) string { return networkName(magicOf(dir)) }

// SyncTells tells whether a sync of the whole file system that dir is on (syncfs) says when the disk failed, as far as
// that is the file system's doing.
func SyncTells(dir string) bool { return syncTells(magicOf(dir)) }

// magicOf returns the magic number of the file system that dir is on; 0: the system does not say.
func magicOf(dir string) uint32 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return uint32(s.Type) //nolint:gosec // of some platforms it is signed, and the numbers have 32 bits
}

// syncTells knows by its magic number a file system that has another one beneath it, which hears of the failure, or a
// program, which is not asked to sync.
func syncTells(magic uint32) bool {
	switch magic {
	case 0, unix.OVERLAYFS_SUPER_MAGIC, unix.ECRYPTFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		return false
	default:
		return true
	}
}

// networkName returns the name of a network file system by its magic number; empty: another file system. What FUSE
// makes of it is not known, and most of it is local.
func networkName(magic uint32) string {
	switch magic {
	case unix.NFS_SUPER_MAGIC:
		return "NFS"
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "SMB"
	case unix.V9FS_MAGIC:
		return "9P"
	case unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC:
		return "AFS"
	case unix.CODA_SUPER_MAGIC:
		return "Coda"
	case unix.NCP_SUPER_MAGIC:
		return "NCP"
	case unix.CEPH_SUPER_MAGIC:
		return "CephFS"
	case lustreMagic:
		return "Lustre"
	default:
		return ""
	}
}
