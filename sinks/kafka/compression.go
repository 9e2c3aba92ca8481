package kafka

import (
	"fmt"

	"github.com/pierrec/lz4/v4"
	kafkago "github.com/segmentio/kafka-go"
)

// init makes blocks of 256 KiB the default of the library that compresses for kafka-go, which has no setting for it.
// Its own default, 4 MiB, costs 8 MiB for each partition that is written to at a time, and whoever decompresses as
// much, for batches of less than a megabyte.
func init() { //nolint:gochecknoinits // it has to come before any use, and is the same for all sinks
	lz4.DefaultBlockSizeOption = lz4.BlockSizeOption(lz4.Block256Kb)
}

func compressionOf(name string) (kafkago.Compression, error) {
	switch name {
	case "", "none":
		return 0, nil
	case "gzip":
		return kafkago.Gzip, nil
	case "snappy":
		return kafkago.Snappy, nil
	case "lz4":
		return kafkago.Lz4, nil
	case "zstd":
		return kafkago.Zstd, nil
	default:
		return 0, fmt.Errorf("is %q: use none, gzip, snappy, lz4 or zstd", name)
	}
}
