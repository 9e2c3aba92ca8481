package admin

import (
	"context"
	"net/http"
)

const filesPath = "/v1/files"

// RefusedFile is a file that holds what cannot be used, so that what it held before is in use.
type RefusedFile struct {
	Variable string `json:"variable"`
	Path     string `json:"path"`
	Reason   string `json:"reason"`
}

// refusedFiles returns the files that hold now what cannot be used.
func (p Parts) refusedFiles() []RefusedFile {
	refused := []RefusedFile{}
	if p.Files == nil {
		return refused
	}
	for _, s := range p.Files.States() {
		if s.Refused != "" {
			refused = append(refused, RefusedFile{s.Variable, s.Path, s.Refused})
		}
	}
	return refused
}

func (p Parts) tellsFiles(w http.ResponseWriter, r *http.Request) {
	var none struct{}
	if readRequest(w, r, &none) {
		answer(w, p.refusedFiles())
	}
}

// ReadRefusedFiles asks the bridge that runs on the data directory which files hold what it cannot use.
func ReadRefusedFiles(ctx context.Context, dir string) (refused []RefusedFile, err error) {
	err = askOnce(ctx, dir, filesPath, struct{}{}, &refused)
	return refused, err
}
