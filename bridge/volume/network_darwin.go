package volume

import "golang.org/x/sys/unix"

func networkOf(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return ""
	}
	switch unix.ByteSliceToString(s.Fstypename[:]) {
	case "nfs":
		return "NFS"
	case "smbfs":
		return "SMB"
	case "afpfs":
		return "AFP"
	case "webdav":
		return "WebDAV"
	default:
		return ""
	}
}
