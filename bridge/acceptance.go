package bridge

// Acceptance is what became of a webhook that was taken. The zero value is of one that was not.
type Acceptance int

const (
	// Stored is a webhook whose ID was not known.
	Stored Acceptance = iota + 1
	// StoredReusedID is one whose ID was known with another body. It is a webhook of its own, stored like any other.
	StoredReusedID
	// Duplicate is one whose ID was known with the same body: it had been stored before.
	Duplicate
)
