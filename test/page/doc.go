// Package page has the live page in a real browser, and its /api/ held against its OpenAPI document.
package page
