package tensorlake

import (
	"strings"
	"time"
)

// Sample is a payload of a kind that Tensorlake is known to send. Its names are made up, and always the same.
type Sample struct {
	// Name is what one asks for it by, such as request-failed.
	Name string `json:"name"`
	// About says in a line what it tells.
	About string `json:"about"`
	// Types are the types of the events that it becomes, in their order.
	Types []string `json:"types"`

	text string // the payload, with {name} for what differs from one to the next
}

// Payload returns the sample as it is sent at the time now. Each of its ids ends in what another call of newID
// returns, which must be text that JSON need not escape.
func (s Sample) Payload(now time.Time, newID func() string) []byte {
	const milliseconds = "2006-01-02T15:04:05.000Z"
	now = now.UTC()
	return []byte(strings.NewReplacer(
		"{id}", newID(),
		"{event}", newID(),
		"{source}", newID(),
		"{snapshot}", newID(),
		"{created}", now.Add(-time.Second).Format(milliseconds),
		"{now}", now.Format(milliseconds),
	).Replace(s.text))
}

// Samples returns a sample of every kind. The first is the workflow that Tensorlake's documentation showed.
func Samples() []Sample {
	return []Sample{
		{
			Name: "workflow", About: "two functions of a workflow have ended, one with a failure",
			Types: []string{functionTypePrefix + "success", functionTypePrefix + "failure"},
			text: `{"workflow_name": "workflow_XXXX", "invocation_id": "invocation_{id}", ` +
				`"fn_status": {"fn_A": "success", "fn_B": "failure"}}`,
		},

		requestSample("created", "a request to an application has begun", `null`, `null`),
		requestSample("completed", "a request to an application has succeeded", `null`, `"{now}"`),
		requestSample("failed", "a request to an application has failed", `"function_error"`, `"{now}"`),

		sandboxSample("created", "a sandbox was asked for", `null`,
			`"generation_id":1,"status":"pending","outcome":null,"outcome_reason":null,"snapshot_id":null`),
		sandboxSample("running", "a sandbox runs", `"pending"`,
			`"generation_id":1,"status":"running","outcome":null,"outcome_reason":null,"snapshot_id":null`),
		sandboxSample("suspended", "a sandbox sleeps in a snapshot", `"running"`,
			`"generation_id":1,"status":"suspended","outcome":null,"outcome_reason":null,"snapshot_id":"snapshot_{snapshot}"`),
		sandboxSample("resumed", "a sandbox comes back, as a new generation", `"suspended"`,
			`"generation_id":2,"status":"pending","outcome":null,"outcome_reason":null,"snapshot_id":"snapshot_{snapshot}"`),
		sandboxSample("terminated", "a sandbox has ended well", `"running"`,
			`"generation_id":1,"status":"terminated","outcome":"success","outcome_reason":"user_terminated","snapshot_id":null`),
		sandboxSample("failed", "a sandbox has ended with a failure", `"running"`,
			`"generation_id":1,"status":"terminated","outcome":"failure","outcome_reason":"out_of_memory","snapshot_id":null`),

		applicationSample("created", "an application was deployed", `"previous_version":null,"previous_state":null`, "1"),
		applicationSample("updated", "an application has a new version",
			`"previous_version":"1","previous_state":"active"`, "2"),
		applicationSample("deleted", "an application is gone", `"previous_version":"2","previous_state":"active"`, "2"),

		jobSample("created", "a document job waits", "pending", ``),
		jobSample("processing", "a document job is at work", "processing", ``),
		jobSample("completed", "a document job has succeeded", "successful",
			`,"finished_at":"{now}","usage":{"pages_parsed":12}`),
		jobSample("failed", "a document job has failed", "failure", `,"finished_at":"{now}","error":"page 7 cannot be read"`),
	}
}

func requestSample(word, about, reason, finishedAt string) Sample {
	return envelopeSample("request-"+word, about, "application.request."+word,
		`{"application":{"name":"application_XXXX","version":"1"},"request":{"id":"request_{id}","status":"`+word+`",`+
			`"failure_reason":`+reason+`,"created_at":"{created}","finished_at":`+finishedAt+`}}`)
}

func sandboxSample(word, about, previousStatus, state string) Sample {
	return envelopeSample("sandbox-"+word, about, "sandbox."+word,
		`{"previous_status":`+previousStatus+`,`+
			`"sandbox":{"id":"sandbox_{id}","name":"sandbox_XXXX","type":"named","image":"image_XXXX",`+
			state+`,"created_at":"{created}",`+
			`"resources":{"cpus":1,"memory_mb":1024,"disk_mb":10240,"gpu_count":0,"gpu_model":null}}}`)
}

func applicationSample(word, about, previous, version string) Sample {
	return envelopeSample("application-"+word, about, "application."+word,
		`{`+previous+`,"application":{"name":"application_XXXX","version":"`+version+`",`+
			`"state":"active","disabled_reason":null,"created_at":"{created}"}}`)
}

// envelopeSample makes a sample of the lifecycle envelope. Each has a source of its own, and so comes before or after
// no other.
func envelopeSample(name, about, word, data string) Sample {
	eventType := typePrefix + word
	return Sample{
		Name: name, About: about, Types: []string{eventType},
		text: `{"event_id":"evt_{event}","event_type":"` + eventType + `","event_version":1,"occurred_at":"{now}",` +
			`"project_id":"project_XXXX","source_id":"src_{source}","source_revision":"1","source_ordinal":0,` +
			`"data":` + data + `}`,
	}
}

func jobSample(word, about, status, more string) Sample {
	return Sample{
		Name: "job-" + word, About: about, Types: []string{documentTypePrefix + word},
		text: `{"job_id":"job_{id}","status":"` + status + `","created_at":"{created}"` + more + `}`,
	}
}
