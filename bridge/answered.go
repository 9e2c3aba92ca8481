package bridge

import "time"

// Answered is a request to the public listener, as it was answered.
type Answered struct {
	At time.Time
	// Result is a word, as in the label of fnbridge_webhooks_total. Status is the HTTP status.
	Result string
	Status int
	// Webhook is what was taken. Of a refused request it has the ID that the request claims, if any, and no Body.
	Webhook Webhook
	// Detail says why a request was refused.
	Detail string
}
