// Package ejbca stands in for EJBCA's client library, which is not served everywhere. It
// has just those names against which SPIRE's upstream authority "ejbca" compiles. A SPIRE
// that is built with it cannot use that plugin, since whatever is asked of it fails.
package ejbca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

var errLeftOut = errors.New("this SPIRE was built without the EJBCA client")

// Authenticator is what a configuration is given.
type Authenticator any

// MTLSAuthenticatorBuilder builds no authenticator.
type MTLSAuthenticatorBuilder struct{}

// NewMTLSAuthenticatorBuilder returns a builder whose Build fails.
func NewMTLSAuthenticatorBuilder() *MTLSAuthenticatorBuilder { return &MTLSAuthenticatorBuilder{} }

// WithClientCertificate does nothing.
func (b *MTLSAuthenticatorBuilder) WithClientCertificate(*tls.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

// WithCaCertificates does nothing.
func (b *MTLSAuthenticatorBuilder) WithCaCertificates([]*x509.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

// Build fails.
func (b *MTLSAuthenticatorBuilder) Build() (Authenticator, error) { return nil, errLeftOut }

// Configuration of a client that cannot be made.
type Configuration struct{ Host string }

// NewConfiguration returns an empty configuration.
func NewConfiguration() *Configuration { return &Configuration{} }

// SetAuthenticator does nothing.
func (c *Configuration) SetAuthenticator(Authenticator) {}

// APIClient is never made.
type APIClient struct{ V1CertificateApi *V1CertificateApi }

// NewAPIClient fails.
func NewAPIClient(*Configuration) (*APIClient, error) { return nil, errLeftOut }

// V1CertificateApi is the part of the client that enrols.
type V1CertificateApi struct{}

// EnrollPkcs10Certificate returns a request whose Execute fails.
func (*V1CertificateApi) EnrollPkcs10Certificate(context.Context) ApiEnrollPkcs10CertificateRequest {
	return ApiEnrollPkcs10CertificateRequest{}
}

// ApiEnrollPkcs10CertificateRequest is a request that cannot be sent.
type ApiEnrollPkcs10CertificateRequest struct{}

// EnrollCertificateRestRequest does nothing.
func (r ApiEnrollPkcs10CertificateRequest) EnrollCertificateRestRequest(EnrollCertificateRestRequest) ApiEnrollPkcs10CertificateRequest {
	return r
}

// Execute fails.
func (ApiEnrollPkcs10CertificateRequest) Execute() (*CertificateRestResponse, *http.Response, error) {
	return nil, nil, errLeftOut
}

// EnrollCertificateRestRequest is the body of such a request.
type EnrollCertificateRestRequest struct{}

// NewEnrollCertificateRestRequest returns an empty body.
func NewEnrollCertificateRestRequest() *EnrollCertificateRestRequest {
	return &EnrollCertificateRestRequest{}
}

// SetUsername does nothing, and neither do the others.
func (*EnrollCertificateRestRequest) SetUsername(string)                 {}
func (*EnrollCertificateRestRequest) SetPassword(string)                 {}
func (*EnrollCertificateRestRequest) SetCertificateRequest(string)       {}
func (*EnrollCertificateRestRequest) SetCertificateAuthorityName(string) {}
func (*EnrollCertificateRestRequest) SetCertificateProfileName(string)   {}
func (*EnrollCertificateRestRequest) SetEndEntityProfileName(string)     {}
func (*EnrollCertificateRestRequest) SetIncludeChain(bool)               {}
func (*EnrollCertificateRestRequest) SetAccountBindingId(string)         {}

// CertificateRestResponse is an answer that never comes.
type CertificateRestResponse struct{ CertificateChain []string }

// GetResponseFormat returns nothing.
func (*CertificateRestResponse) GetResponseFormat() string { return "" }

// GetCertificate returns nothing.
func (*CertificateRestResponse) GetCertificate() string { return "" }

// GenericOpenAPIError is the client's error.
type GenericOpenAPIError struct{}

// Error says that there is none.
func (GenericOpenAPIError) Error() string { return errLeftOut.Error() }

// Body returns nothing.
func (GenericOpenAPIError) Body() []byte { return nil }
