package delivery

import "github.com/fnbridge/fnbridge/bridge/delivery/lane"

// Finished is what a sink has finished beyond its cursor.
type Finished = lane.Finished

// ReadFinished reads what delivery has stored in the journal of what a sink has finished beyond its cursor.
func ReadFinished(text []byte) (Finished, error) { return lane.ReadFinished(text) }
