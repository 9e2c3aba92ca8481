package volume

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNetworkFileSystems(t *testing.T) {
	for magic, name := range map[uint32]string{
		unix.NFS_SUPER_MAGIC: "NFS", unix.CIFS_SUPER_MAGIC: "SMB", unix.SMB2_SUPER_MAGIC: "SMB", unix.V9FS_MAGIC: "9P",
		unix.CEPH_SUPER_MAGIC: "CephFS", 0x0bd00bd0: "Lustre",
		unix.EXT4_SUPER_MAGIC: "", unix.XFS_SUPER_MAGIC: "", unix.TMPFS_MAGIC: "", unix.OVERLAYFS_SUPER_MAGIC: "",
	} {
		require.Equal(t, name, networkName(magic))
	}
}

func TestFileSystemsWhoseSyncTellsOfNoFailure(t *testing.T) {
	for magic, tells := range map[uint32]bool{
		unix.FUSE_SUPER_MAGIC: false, unix.OVERLAYFS_SUPER_MAGIC: false, unix.ECRYPTFS_SUPER_MAGIC: false,
		unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true, unix.TMPFS_MAGIC: true,
	} {
		require.Equal(t, tells, syncTells(magic), "%x", magic)
	}
	require.False(t, SyncTells("/nowhere"), "of which nothing is known")
}
