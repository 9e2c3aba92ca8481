// Package catalogue describes, for programs, what comes in and what goes out: its tests write docs/schemas and
// docs/asyncapi.yaml, and hold both against the golden payloads and the code that reads them.
package catalogue
