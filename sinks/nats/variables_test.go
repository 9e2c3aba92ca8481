package nats_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// With several sinks nobody else could know whose setting an error is about.
func TestErrorsNameTheirVariables(t *testing.T) {
	ca := testcert.New(t)
	token := func(o *server.Options) { o.Authorization = "s3cret" }
	stream := func(name string, subjects ...string) *natsjs.StreamConfig {
		return &natsjs.StreamConfig{Name: name, Subjects: subjects}
	}
	for name, tt := range map[string]struct {
		server func(*server.Options)
		stream *natsjs.StreamConfig // that is there
		set    func(*nats.Options)
		want   string
	}{
		"no login": {
			token, nil, func(*nats.Options) {},
			"refuses the credentials; check AUDIT_CREDS_FILE, AUDIT_NKEY_FILE, AUDIT_TOKEN, AUDIT_USER and AUDIT_PASSWORD: ",
		},
		"wrong token": {
			token, nil, func(o *nats.Options) { o.Token = "wrong-s3cret" }, "refuses the credentials; check AUDIT_TOKEN: ",
		},
		"wrong password": {
			token, nil, func(o *nats.Options) { o.User, o.Password = "bridge", "wrong-s3cret" },
			"refuses the credentials; check AUDIT_USER and AUDIT_PASSWORD: ",
		},
		"wrong login in the URL": {
			token, nil, func(o *nats.Options) { o.URL = "nats://wrong-s3cret@" + o.URL[len("nats://"):] },
			"refuses the credentials; check AUDIT_URL: ",
		},
		"wrong token of the embedded server": {
			token, nil, func(o *nats.Options) { o.Token, o.LoginVariable = "wrong-s3cret", "EMBEDDED_TOKEN" },
			"refuses the credentials; check EMBEDDED_TOKEN: ",
		},
		"no TLS": {
			func(*server.Options) {}, nil, func(o *nats.Options) { o.TLSCAFile = ca.CAFile },
			"check the address (AUDIT_URL) and the TLS files (AUDIT_TLS_CA_FILE and AUDIT_TLS_CERT_FILE): ",
		},
		"no stream": {
			func(*server.Options) {}, nil, func(o *nats.Options) { o.CreateStream = false },
			"create it, correct AUDIT_STREAM, or set AUDIT_CREATE_STREAM to true",
		},
		"another subject": {
			func(*server.Options) {}, stream("TENSORLAKE", "orders.>"), func(*nats.Options) {},
			"change the subject (AUDIT_SUBJECT), the stream's name (AUDIT_STREAM) or its subjects",
		},
		"another stream": {
			func(*server.Options) {}, stream("OTHER", "tensorlake.>"), func(*nats.Options) {},
			"publish to that stream (AUDIT_STREAM), or change the subject (AUDIT_SUBJECT): ",
		},
		"a stream that acknowledges nothing": {
			func(*server.Options) {}, &natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, NoAck: true},
			func(*nats.Options) {}, "publish to another (AUDIT_STREAM)",
		},
		"too many replicas": {
			func(*server.Options) {}, nil, func(o *nats.Options) { o.Replicas = 3 }, "can keep (AUDIT_REPLICAS): ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natsserver.Single(t, tt.server)
			if tt.stream != nil {
				createStream(t, natsserver.JetStream(t, natsserver.Connect(t, srv.URL())), *tt.stream)
			}
			o := options(t, srv.URL())
			o.Files = reload.New(nil).Part(func(setting string) reload.Source {
				return reload.Source{Variable: "AUDIT_" + setting}
			})
			tt.set(&o)
			requireBlocked(t, open(t, o), tt.want)
		})
	}
}
