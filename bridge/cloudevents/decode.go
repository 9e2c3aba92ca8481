package cloudevents

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// Decode reads a message that Encode has written, with the same prefix. The names of headers are compared without
// regard to case, since clients and proxies change it.
//
// A message in binary or structured mode gives an event with its attributes and its data; what only templates need
// (Origin, Route and the fields after it) is not in a message. Headers that fnbridge does not write are ignored. Any
// other message is taken for one in the plain format: only Data is set.
//
// The error says that the message claims to be a CloudEvent, but is not a valid one of version 1.0.
func Decode(headers []Header, prefix string, body []byte) (bridge.Event, error) {
	var (
		values      [attrCount]string
		contentType string
	)
	for _, h := range headers {
		if strings.EqualFold(h.Name, contentTypeName) {
			contentType = h.Value
			continue
		}
		for a := range attrCount {
			if !strings.EqualFold(h.Name, prefix+a.String()) {
				continue
			}
			if values[a] = h.Value; prefix == NATSPrefix {
				values[a] = attributeValue(a, h.Value)
			}
			break
		}
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err == nil && mediaType == structuredContentType {
		return decodeStructured(body)
	}
	if values[attrSpecVersion] == "" {
		return bridge.Event{Data: body}, nil
	}
	return newEvent(values, body)
}

func decodeStructured(body []byte) (bridge.Event, error) {
	var message struct {
		SpecVersion  string          `json:"specversion"`
		ID           string          `json:"id"`
		Source       string          `json:"source"`
		Type         string          `json:"type"`
		Subject      string          `json:"subject"`
		Time         string          `json:"time"`
		PartitionKey string          `json:"partitionkey"`
		Sequence     string          `json:"sequence"`
		SourceID     string          `json:"sourceid"`
		WebhookID    string          `json:"webhookid"`
		Data         json.RawMessage `json:"data"`
		DataBase64   []byte          `json:"data_base64"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return bridge.Event{}, fmt.Errorf("the message is no CloudEvent in JSON: %w", err)
	}
	data := []byte(message.Data)
	if data == nil {
		data = message.DataBase64
	}
	return newEvent([...]string{
		attrSpecVersion:  message.SpecVersion,
		attrID:           message.ID,
		attrSource:       message.Source,
		attrType:         message.Type,
		attrSubject:      message.Subject,
		attrTime:         message.Time,
		attrPartitionKey: message.PartitionKey,
		attrSequence:     message.Sequence,
		attrSourceID:     message.SourceID,
		attrWebhookID:    message.WebhookID,
	}, data)
}

func newEvent(values [attrCount]string, data []byte) (bridge.Event, error) {
	if v := values[attrSpecVersion]; v != specVersion {
		return bridge.Event{}, fmt.Errorf("the message is a CloudEvent of version %q; only %s is read", v, specVersion)
	}
	e := bridge.Event{
		ID:           values[attrID],
		Source:       values[attrSource],
		Type:         values[attrType],
		Subject:      values[attrSubject],
		PartitionKey: values[attrPartitionKey],
		Sequence:     values[attrSequence],
		SourceID:     values[attrSourceID],
		WebhookID:    values[attrWebhookID],
		Data:         data,
	}
	if err := complete(&e); err != nil {
		return bridge.Event{}, fmt.Errorf("the message is no valid CloudEvent: %w", err)
	}
	if text := values[attrTime]; text != "" {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return bridge.Event{}, errors.New("the message is no valid CloudEvent: its time is not what RFC 3339 allows")
		}
		e.Time = t.UTC()
	}
	return e, nil
}
