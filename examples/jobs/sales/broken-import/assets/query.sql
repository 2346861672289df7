select 'this import never works'
