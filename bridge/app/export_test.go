package app

import "net/http"

// PublicServer is the server of the public listener, whose waits a test may shorten before Run.
func PublicServer(a *App) *http.Server { return a.public }
