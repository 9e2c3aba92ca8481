// Package tensorlake knows the webhooks of Tensorlake: how they are signed, which shapes their payloads
// have, and which events each becomes. Everything in it is a pure function of its arguments (except
// GenerateSecret, which reads the system's randomness), and safe for concurrent use.
package tensorlake
